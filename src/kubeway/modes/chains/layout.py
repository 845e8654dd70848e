"""
What the files of this mode share: names of chains and lists.

The names that others may know are kube-proxy's: `KUBE-SVC-` and so on before a hash of the service
port. Source: pkg/proxy/iptables/proxier.go (servicePortChainName).
"""

from __future__ import annotations

from base64 import b32encode
from functools import lru_cache
from hashlib import sha256
from typing import Final

from kubeway.model.forward import Endpoint, Forward, Frontend
from kubeway.planes.xtables.objects import Chain, Comment, Destination, Dport, Family, Protocol
from kubeway.values import PROTO_NAMES, Ip, Proto, host_prefix, show_addr

SERVICES: Final = "KUBE-SERVICES"
EXTERNAL_SERVICES: Final = "KUBE-EXTERNAL-SERVICES"
NODE_PORTS: Final = "KUBE-NODEPORTS"
POSTROUTING: Final = "KUBE-POSTROUTING"
MARK_MASQ: Final = "KUBE-MARK-MASQ"
OUTSIDE: Final = "KUBE-FROM-OUTSIDE"
"""kubeway's own: clients that are hidden from endpoints of cluster IPs."""
FORWARD: Final = "KUBE-FORWARD"
FIREWALL: Final = "KUBE-PROXY-FIREWALL"
SHARED_FIREWALL: Final = "KUBE-FIREWALL"

CHAIN: Final = Chain()
_MAX_COMMENT: Final = 255  # bytes, but names have no others than letters: XT_MAX_COMMENT_LEN less the NUL


# Values are shared where they are equal: fewer to make, to hold, and to spell.
@lru_cache(maxsize=64)
def to_address(ip: Ip) -> Destination:
    """A packet's destination is this address; a service port asks several times in a row."""
    return Destination(host_prefix(ip))


@lru_cache(maxsize=4096)
def to_port(proto: Proto, port: int) -> Dport:
    return Dport(proto, port)


@lru_cache
def speaks(proto: Proto) -> Protocol:
    return Protocol(proto)


FAMILIES: Final[dict[int, Family]] = {4: "ip", 6: "ip6"}
LOOPBACKS: Final = {4: "127.0.0.0/8", 6: "::1/128"}


def note(text: str) -> Comment:
    """Names in manifests may be longer than those of a cluster, and the kernel keeps so much of a comment.

    What is not kept would be a difference for ever.
    """
    return Comment(text[:_MAX_COMMENT])


def hashed(text: str) -> str:
    """The end of a chain's name."""
    # Ten bytes are 16 letters; the rest of the digest need not be spelt.
    return b32encode(sha256(text.encode()).digest()[:10]).decode()


def proto_word(proto: Proto) -> str:
    return PROTO_NAMES[proto].lower()


def suffix(forward: Forward, front: str = "") -> str:
    """What chains of a service port end with; `front` where each way in needs its own."""
    return hashed(f"{forward.name}{proto_word(forward.proto)}{front}")


def front_text(ip: bytes | None, proto: Proto, port: int) -> str:
    """A way in, for hashes: nothing of the Service's name is in it."""
    where = f"node:{port}" if ip is None else show_addr(ip, port)
    return f"{where}/{proto_word(proto)}"


def front_of(frontend: Frontend, proto: Proto) -> str:
    return front_text(frontend.ip, proto, frontend.port)


def client_list(front: str, ip: bytes, port: int) -> str:
    """The recent list of the clients that this way in sends to this endpoint."""
    return f"KUBE-SEP-{hashed(f'{front} {show_addr(ip, port)}')}"


def list_of(front: str, endpoint: Endpoint) -> str:
    return client_list(front, endpoint.ip, endpoint.port)
