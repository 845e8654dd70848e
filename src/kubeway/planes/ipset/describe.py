"""
What a change is called in one line, for errors and logs.
"""

from __future__ import annotations

from collections.abc import Mapping

from kubeway.planes.ipset.objects import Set
from kubeway.planes.ipset.words import show_fields
from kubeway.program.program import Change, Key, Object

_VERBS = {"add": "add", "set": "change", "del": "delete"}


def describe(change: Change, program: Mapping[Key, Object]) -> str:
    """`add entry KUBE-CLUSTER-IP 10.96.0.9,tcp:80`, `change set KUBE-IPVS-IPS from hash:net to hash:ip`"""
    told = f"{_VERBS[change.verb]} {describe_key(change.key, program)}"
    if change.verb == "set" and isinstance(change.old, Set) and isinstance(change.new, Set):
        return f"{told} from {show_set(change.old)} to {show_set(change.new)}"
    return told


def describe_key(key: Key, program: Mapping[Key, Object]) -> str:
    name, *fields = key.name
    return f"{key.kind} {name} {show_fields(tuple(fields))}" if fields else f"{key.kind} {name}"


def show_set(found: Set) -> str:
    """`hash:ip,port of IPv6`"""
    return f"{found.type} of IPv{found.family}" if found.family else found.type
