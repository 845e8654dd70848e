"""
What a change is called in one line, for errors and logs.
"""

from __future__ import annotations

from collections.abc import Mapping

from kubeway.planes.xtables.objects import Rule
from kubeway.planes.xtables.words import show_rule
from kubeway.program.program import Change, Key, Object

_VERBS = {"add": "add", "set": "change", "del": "delete"}


def describe(change: Change, program: Mapping[Key, Object]) -> str:
    """`add chain KUBE-SVC-… of nat (ip)`; a jump or branch with its rule: `… of nat: -j KUBE-… (ip)`"""
    told = f"{_VERBS[change.verb]} {describe_key(change.key, program)}"
    rule = change.old if change.new is None else change.new
    if not isinstance(rule, Rule):
        return told
    family = change.key.name[0]
    return f"{told.removesuffix(f' ({family})')}: {show_rule(rule, family)} ({family})"


def describe_key(key: Key, program: Mapping[Key, Object]) -> str:
    """`rules KUBE-SVC-… of nat (ip)`, `jump OUTPUT 1 of nat (ip)`"""
    family, table, chain, *rest = key.name
    return f"{' '.join(map(str, (key.kind, chain, *rest)))} of {table} ({family})"
