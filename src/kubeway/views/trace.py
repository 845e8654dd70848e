"""
Where would this packet go, and why?

The question is answered twice: by the model, which gives its reasons, and by the
program itself, run instruction by instruction on the packet. The chances are
exact, so the two answers are equal or one of them is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kubeway.errors import BadInput
from kubeway.model.oracle import Oracle
from kubeway.model.packet import Fate, Fates, Packet
from kubeway.program.plane import Mode
from kubeway.values import PROTO_NAMES, PROTOS, Ip, Proto, family_of, parse_ip, show_addr, show_ip
from kubeway.views.compile import World, program


class Trace(NamedTuple):
    """What the model says of a packet and why; what the program does with it."""

    packet: Packet
    steps: list[str]
    meant: Fates
    done: Fates

    @property
    def agree(self) -> bool:
        return dict(self.meant) == dict(self.done)


def trace(world: World, mode: Mode, packet: Packet) -> Trace:
    steps: list[str] = []
    meant = Oracle(world.forwards, world.view).fates(packet, steps)
    done = mode.fates(program(world, mode).objects, world.view, packet)
    return Trace(packet, steps, meant, done)


def parse_packet(src: str, target: str, iif: str, remembered: str, own: frozenset[Ip]) -> Packet:
    """From the words of a command line. `own`: addresses whose packets are made on the node itself."""
    ip, port, proto = _target(target)
    try:
        client = parse_ip(src)
    except ValueError as error:
        raise BadInput(f"SRC: {error}") from None
    if family_of(client) != family_of(ip):
        raise BadInput(f"SRC: {src} is not of the family of {show_ip(ip)}")
    last = None
    if remembered:
        last = _address("--remembered", remembered)
        if family_of(last[0]) != family_of(ip):
            raise BadInput(f"--remembered: {remembered} is not of the family of {show_ip(ip)}")
    return Packet(client, ip, proto, port, "" if client in own else iif, last)


def lines(trace: Trace, mode: str) -> Iterator[str]:
    """For people: the question, the steps, the table, the verdict."""
    packet = trace.packet
    where = f"in by {packet.iif}" if packet.iif else "made on this node"
    target = f"{show_addr(packet.dst, packet.port)}/{PROTO_NAMES[packet.proto]}"
    yield f"{show_ip(packet.src)} -> {target}, {where}"
    yield ""
    for number, step in enumerate(trace.steps, 1):
        yield f"{number:3}. {step}"
    yield ""
    yield from _table(trace, mode)
    yield ""
    if trace.agree:
        yield f"The program of {mode} mode does just that."
    else:
        yield f"The program of {mode} mode does something else. This is a bug in kubeway: please report it."


def _table(trace: Trace, mode: str) -> Iterator[str]:
    fates = sorted({*trace.meant, *trace.done}, key=_order)
    names = {fate: _words(fate) for fate in fates}
    width = max(map(len, names.values()))
    yield f"{'where it ends':{width}}  {'chance':>9}  {mode:>9}"
    for fate in fates:
        meant, done = (str(fates.get(fate, "-")) for fates in (trace.meant, trace.done))
        yield f"{names[fate]:{width}}  {meant:>9}  {done:>9}"


def _order(fate: Fate) -> tuple[str, bytes, int, bool]:
    return (fate.verdict, fate.ip or b"", fate.port, fate.masquerade)


def _words(fate: Fate) -> str:
    return {
        "reject": "rejected (port unreachable)",
        "drop": "dropped",
        "pass": "passed on as it is",
    }.get(fate.verdict, str(fate))


def _target(text: str) -> tuple[Ip, int, Proto]:
    address, slash, word = text.partition("/")
    proto = PROTOS.get(word.upper()) if slash else PROTOS["TCP"]
    if proto is None:
        raise BadInput(f"DST:PORT/PROTO: {word!r} is none of {', '.join(PROTOS)}")
    return (*_address("DST:PORT/PROTO", address), proto)


def _address(what: str, text: str) -> tuple[Ip, int]:
    """`10.96.0.10:53` or `[fd00::10]:53`."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        if not colon or bracketed != (":" in host):
            raise ValueError(f"{text!r} is not an address with a port")
        if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
            raise ValueError(f"{port!r} is not a port, 1 to 65535")
        return parse_ip(host.strip("[]")), int(port)
    except ValueError as error:
        raise BadInput(f"{what}: {error}; write 10.96.0.10:53 or [fd00::10]:53") from None
