"""
How long a TCP connect takes to the first of few and to the last of many Services.

    python -m bench.connects nft|legacy COUNT NAME=SHAPE:first|last:WORLD...

Each world has a client, a node with the rules and a server, in namespaces of their own, and a packet goes
through all three. SHAPE is what the rules look like: `tree` (ours) or `list` (kube-proxy's), and with
`-behind-set` only what is in an ipset of all Services goes there. The worlds take turns at every
connect: to their first or last Service, and to an address that is no Service's. Prints one line of JSON.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from bench import kubeproxy
from bench.pipeline import load
from bench.tables import PLANES, PODS, compiler_of, ordered, tool
from kubeway.lab.kernel import CLONE_NEWNET, unshare
from kubeway.model.forward import Forward
from kubeway.planes.xtables.text import parse
from kubeway.program.plan import diff
from kubeway.program.program import Key, Object
from kubeway.shell.compiler import Compiler
from kubeway.values import PROTO_NAMES, show_ip

PORT: Final = 8080
"""Of every endpoint of the worlds."""

_WARM: Final = 20
_STRANGER: Final = "10.128.255.1"
"""An address where the server listens and no Service leads."""
T = TypeVar("T")
_RESET: Final = struct.pack("ii", 1, 0)


class Place(NamedTuple):
    """A client's namespace and its node's, who listens for it, and the Service it asks for."""

    client: int
    node: int
    listener: socket.socket
    service: tuple[str, int]


# --- namespaces ----------------------------------------------------------------------


def namespace() -> int:
    """A new one, which this thread is in now; it goes when this process and its descriptor go."""
    unshare(CLONE_NEWNET)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


def enter(held: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(held, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def ip(*commands: str) -> None:
    text = "".join(f"{command}\n" for command in ("link set lo up", *commands))
    subprocess.run(["ip", "-batch", "-"], input=text, text=True, check=True)


def path(held: int) -> str:
    return f"/proc/{os.getpid()}/fd/{held}"


def triple(serve: Callable[[], T]) -> tuple[int, int, T]:
    """A client, a node, in whose namespace this thread is then, and what `serve` made on a server that has
    all the endpoints' addresses. It has to hold the server's namespace."""
    node, client = namespace(), namespace()
    unshare(CLONE_NEWNET)
    ip(
        f"link add eth0 type veth peer name back netns {path(node)}",
        "addr add 10.190.0.2/24 dev eth0",
        "link set eth0 up",
        "route add default via 10.190.0.1",
        "route add local 10.128.0.0/16 dev lo",
    )
    served = serve()
    enter(client)
    ip(
        f"link add eth0 type veth peer name front netns {path(node)}",
        "addr add 10.191.0.2/24 dev eth0",
        "link set eth0 up",
        "route add default via 10.191.0.1",
    )
    enter(node)
    ip(
        "addr add 10.191.0.1/24 dev front",
        "addr add 10.190.0.1/24 dev back",
        "link set front up",
        "link set back up",
        "route add 10.128.0.0/16 via 10.190.0.2",
    )
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    return client, node, served


# --- rules -----------------------------------------------------------------------------


def in_order(compiler: Compiler) -> list[Forward]:
    """By address, so that the first and the last of the list are the same in every run."""
    return sorted(compiler.settler.forwards.values(), key=lambda forward: forward.frontends[0].ip or b"")


def program(shape: str, compiler: Compiler) -> dict[Key, Object]:
    """As objects, whoever's shape it is: so that both are loaded in the same way, and soon."""
    if shape == "tree":
        return dict(compiler.linker.objects)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    aside = namespace()
    tool("legacy", kubeproxy.JUMPS)
    tool("legacy", kubeproxy.restore(in_order(compiler), PODS))
    save = subprocess.run(["iptables-legacy-save"], stdout=subprocess.PIPE, text=True, check=True)
    enter(home)
    os.close(aside)
    os.close(home)
    return parse(save.stdout, "ip")


def behind_set(backend: str, compiler: Compiler) -> None:
    """Let only what is sent to some Service go to the Services' rules."""
    lines = ["create services hash:ip,port hashsize 16384 maxelem 131072"]
    for forward in compiler.settler.forwards.values():
        proto = PROTO_NAMES[forward.proto].lower()
        lines += [f"add services {show_ip(way.ip or b'')},{proto}:{way.port}" for way in forward.frontends]
    subprocess.run(["ipset", "restore"], input="\n".join([*lines, ""]), text=True, check=True)
    rule = "PREROUTING 1 -m set --match-set services dst,dst -j KUBE-SERVICES"
    subprocess.run([f"iptables-{backend}", "-t", "nat", "-R", *rule.split()], check=True)


def place(backend: str, shape: str, which: str, world: str) -> Place:
    compiler = compiler_of(store := load(Path(world)))
    compiler.update(store.snapshot(), ())
    client, node, listener = triple(lambda: socket.create_server(("", PORT), backlog=64))
    shape, _, behind = shape.partition("-")
    objects = program(shape, compiler)
    plane = PLANES[backend](lambda key: None, objects)
    plane.write_now(ordered(diff({}, objects)))
    plane.close()
    if behind:
        behind_set(backend, compiler)
    (way,) = in_order(compiler)[-1 if which == "last" else 0].frontends
    return Place(client, node, listener, (show_ip(way.ip or b""), way.port))


# --- connects ----------------------------------------------------------------------------


def connect(at: Place, to: tuple[str, int]) -> float:
    """Microseconds from asking until the connection is there."""
    enter(at.client)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
        one.settimeout(5)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        began = time.perf_counter_ns()
        one.connect(to)
        took = time.perf_counter_ns() - began
        at.listener.accept()[0].close()
    return took / 1000


def main(backend: str, count: str, *asked: str) -> None:
    places = {}
    for one in asked:
        name, _, rest = one.partition("=")
        places[name] = place(backend, *rest.split(":"))
        gc.collect()
    gc.disable()
    took: dict[str, dict[str, list[float]]] = {name: {"service": [], "stranger": []} for name in places}
    for turn in range(int(count) + _WARM):
        for name, at in places.items():
            for what, to in ("service", at.service), ("stranger", (_STRANGER, PORT)):
                micros = connect(at, to)
                if turn >= _WARM:
                    took[name][what].append(micros)
    print(json.dumps(took))


if __name__ == "__main__":
    main(*sys.argv[1:])
