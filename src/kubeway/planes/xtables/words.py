"""
A rule in the words of `iptables-save`, and those words as a rule.

Knows how matches and targets are spelt, in which order they stand, and how words are quoted;
tables and chains are `text.py`'s. What is read is what iptables 1.8 prints, with either back
end; words kubeway has no use for become ForeignMatch and ForeignTarget, so that a rule of
somebody else is never taken for one of ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Sequence
from functools import lru_cache
from typing import Any, Final, get_args

from kubeway.errors import Malformed
from kubeway.planes.xtables.objects import (
    Accept,
    AddrType,
    Answering,
    Balanced,
    Comment,
    ConnMark,
    ConnMarkXset,
    CtState,
    Destination,
    Dnat,
    Dport,
    Drop,
    Family,
    ForeignMatch,
    ForeignTarget,
    Goto,
    InInterface,
    InSet,
    Jump,
    Mark,
    MarkXset,
    Masquerade,
    Match,
    Nfacct,
    Opening,
    Protocol,
    Random,
    Recent,
    Reject,
    Return,
    Rule,
    Side,
    Source,
    Target,
    Tproxy,
    Transparent,
)
from kubeway.values import PROTO_NAMES, PROTOS, Prefix, parse_ip, parse_prefix, show_addr, show_ip

PREFIX: Final = "KUBE-"
"""How the names of chains begin that may be a service proxy's: never a target's."""

STATES: Final = ("INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT")
"""In the order in which they are printed."""

_PROTO_WORDS: Final = {number: name.lower() for number, name in PROTO_NAMES.items()}
_PROTO_NUMBERS: Final = {name.lower(): number for name, number in PROTOS.items()}
_WHOLE_MASK: Final = {"ip": "255.255.255.255", "ip6": ":".join(["ffff"] * 8)}
_SIDES: Final[dict[str, Side]] = {"src": "src", "dst": "dst"}
MOST_SIDES: Final = 6
"""IPSET_DIM_MAX: fields that an entry of a set may have."""

_REJECT_WITH: Final = {"ip": "icmp-port-unreachable", "ip6": "icmp6-port-unreachable"}
_SIZES: Final = {"ip": 4, "ip6": 16}
_SYN: Final = "FIN,SYN,RST,ACK SYN"
_RECENT_OPS: Final = {"check": "--rcheck", "set": "--set", "update": "--update"}
_ALL: Final = 0xFFFFFFFF

_BARE: Final = re.compile(r"[-\w]+", re.ASCII)
_WORD: Final = re.compile(r'[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^ \t"]+))', re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_NUMBER: Final = re.compile(r"0x[0-9a-fA-F]{1,8}|[0-9]{1,10}", re.ASCII)
_CHANCE: Final = re.compile(r"[01]\.[0-9]{1,20}", re.ASCII)
_UNPRINTABLE: Final = re.compile(r"[\0-\x1f\x7f]+")

_HEADS: Final = ("-s", "-d", "-i", "-o", "-p", "-f")
"""What the rule itself asks, in the order of iptables-save; it stands before all matches."""

_ENDS: Final = frozenset({*_HEADS, "-m", "-j", "-g"})
_FREE: Final = frozenset({"--comment", "--name", "--string", "--nfacct-name"})
"""Options whose value may be any word, even one that looks like an option."""

_HEAD_RANKS: Final[dict[type[Match], int]] = {
    Source: _HEADS.index("-s"),
    Destination: _HEADS.index("-d"),
    InInterface: _HEADS.index("-i"),
    Protocol: _HEADS.index("-p"),
}
LAST_RANK: Final = len(_HEADS)
_VERDICTS: Final[dict[str, Target]] = {"ACCEPT": Accept(), "DROP": Drop(), "RETURN": Return()}


# --- words ----------------------------------------------------------------------------


def split(line: str) -> list[str]:
    """The words of a line. In quotes a word may have spaces, and a backslash before any character."""
    if '"' not in line:
        return line.split()
    if "\\" not in line and len(parts := line.split('"')) % 2:
        # The usual, fast: every other part stood in quotes.
        return [word for n, part in enumerate(parts) for word in ((part,) if n % 2 else part.split())]
    words, at, end = [], 0, len(line.rstrip(" \t"))
    while at < end:
        found = _WORD.match(line, at)
        if found is None:
            raise Malformed(f"a quote that does not end: {line[at : at + 60].strip()!r}")
        quoted, bare = found.groups()
        words.append(bare if quoted is None else _ESCAPED.sub(r"\1", quoted))
        at = found.end()
    return words


def quote(text: str) -> str:
    """As iptables-save prints a text (xtables_save_string): in quotes unless it is one plain word."""
    if _BARE.fullmatch(text):
        return text
    text = printable(text)
    for special in ("\\", '"', "'"):
        text = text.replace(special, "\\" + special)
    return f'"{text}"'


def printable(text: str) -> str:
    """In iptables-save a line is a rule, so line breaks and their kind become spaces."""
    return _UNPRINTABLE.sub(" ", text)


def _foreign(words: Sequence[str]) -> str:
    """Words of somebody else, quoted where they would fall apart."""
    return " ".join(word if word and not set(word) & set(" \t\"\\'") else quote(word) for word in words)


# --- a rule as words --------------------------------------------------------------------


def in_order(matches: Sequence[Match]) -> tuple[Match, ...]:
    """The matches as iptables-save prints them: source, destination, interface and protocol first.

    `parse` gives them so, too: a rule that has them in another order does not read back as itself.
    """
    kinds = tuple(map(type, matches))
    if ForeignMatch in kinds:
        return tuple(sorted(matches, key=rank))
    places = _places(kinds)
    return tuple(matches) if places is None else tuple([matches[place] for place in places])


@lru_cache(maxsize=1024)
def _places(kinds: tuple[type[Match], ...]) -> tuple[int, ...] | None:
    """Which of them comes first, which next, and so on; None: they stand as they should."""
    places = sorted(range(len(kinds)), key=lambda place: _HEAD_RANKS.get(kinds[place], LAST_RANK))
    return None if places == sorted(places) else tuple(places)


def rank(match: Match) -> int:
    """Its place in that order; LAST_RANK for all that come behind the head."""
    if isinstance(match, ForeignMatch):
        head = next((word for word in match.words[:2] if word != "!"), "")
        return _HEADS.index(head) if head in _HEADS else LAST_RANK
    return _HEAD_RANKS.get(type(match), LAST_RANK)


def show_rule(rule: Rule, family: Family) -> str:
    """`-p tcp -m comment --comment "shop/web:http" -m tcp --dport 80 -j KUBE-SVC-…`"""
    matches, target = rule.matches, rule.target
    # Rules that ask for no address are nearly all endpoints', and ask what those of other Services ask.
    few = matches[:1] and type(matches[0]) is Protocol
    asked = _show_few(matches, family) if few else _show_matches(matches, family)
    if target is None:
        return asked
    told = _SHOWN[type(target)](target, family)
    return f"{asked} {told}" if asked else told


def _show_matches(matches: tuple[Match, ...], family: Family) -> str:
    return " ".join([_SHOWN[type(match)](match, family) for match in in_order(matches)])


_show_few = lru_cache(maxsize=1024)(_show_matches)


# What is nearly never the same in two rules. By type, as a match statement over all of them takes twice the
# time, and a program has a hundred thousand.


def _show_prefix(option: str, match: Source | Destination) -> str:
    return f"{_not(match.invert)}{option} {match.prefix}"


def _show_comment(match: Comment, family: Family) -> str:
    return f"-m comment --comment {quote(match.text)}"


def _show_dnat(target: Dnat, family: Family) -> str:
    return f"-j DNAT --to-destination {show_addr(target.ip, target.port)}"


# What many rules share, spelt once.
@lru_cache(maxsize=4096)
def _show_shared(part: Match | Target, family: Family) -> str:
    match part:
        case InInterface(name, begins, invert):
            return f"{_not(invert)}-i {name}{'+' * begins}"
        case Protocol(proto):
            return f"-p {_PROTO_WORDS.get(proto, proto)}"
        case Dport(proto, port, last):
            return f"-m {_PROTO_WORDS.get(proto, proto)} --dport {port}" + (f":{last}" if last else "")
        case Random(of):
            return f"-m statistic --mode random --probability {steps_of(of) / (1 << 31):.11f}"
        case CtState(states, invert):
            return f"-m conntrack {_not(invert)}--ctstate {','.join(states_in_order(states))}"
        case Mark(value, mask, invert):
            return f"-m mark {_not(invert)}--mark 0x{value:x}" + (f"/0x{mask:x}" if mask != _ALL else "")
        case Opening(invert):
            return f"-m tcp {_not(invert)}--tcp-flags {_SYN}"
        case ConnMark(value, mask, invert):
            whole = f"/0x{mask:x}" if mask != _ALL else ""
            return f"-m connmark {_not(invert)}--mark 0x{value:x}{whole}"
        case Answering():
            return "-m conntrack --ctdir REPLY"
        case Transparent():
            return "-m socket --transparent"
        case AddrType(of):
            return f"-m addrtype --{of}-type LOCAL"
        case Recent(name, op, seconds):
            within = f" --seconds {seconds} --reap" if seconds else ""
            return f"-m recent {_RECENT_OPS[op]}{within} --name {name} --mask {_WHOLE_MASK[family]} --rsource"
        case Nfacct(name):
            return f"-m nfacct --nfacct-name {name}"
        case Balanced(invert):
            return f"-m ipvs {_not(invert)}--ipvs"
        case InSet(name, sides, invert):
            return f"-m set {_not(invert)}--match-set {name} {','.join(sides)}"
        case Accept() | Drop() | Return():
            return f"-j {type(part).__name__.upper()}"
        case MarkXset(value, mask):
            return f"-j MARK --set-xmark 0x{value:x}/0x{mask:x}"
        case ConnMarkXset(value, mask):
            return f"-j CONNMARK --set-xmark 0x{value:x}/0x{mask:x}"
        case Tproxy(ip, port, value, mask):
            marking = f"--tproxy-mark 0x{value:x}/0x{mask:x}"
            return f"-j TPROXY --on-port {port} --on-ip {show_ip(ip)} {marking}"
        case Masquerade(fully):
            return "-j MASQUERADE" + " --random-fully" * fully
        case Reject():
            return f"-j REJECT --reject-with {_REJECT_WITH[family]}"
        case ForeignMatch(words) | ForeignTarget(words):
            return _foreign(words)
        case _:
            raise TypeError(f"no words for {part!r}")


_SHOWN: Final[dict[type[Any], Callable[[Any, Family], str]]] = {
    **dict.fromkeys((*get_args(Match), *get_args(Target)), _show_shared),
    Source: lambda match, family: _show_prefix("-s", match),
    Destination: lambda match, family: _show_prefix("-d", match),
    Comment: _show_comment,
    Jump: lambda target, family: f"-j {target.chain}",
    Goto: lambda target, family: f"-g {target.chain}",
    Dnat: _show_dnat,
}


def _not(invert: bool) -> str:
    return "! " if invert else ""


def steps_of(of: int) -> int:
    """A chance of one in `of` in steps of 2^-31: iptables' own rounding."""
    return ((1 << 32) + of) // (2 * of)


def one_of(steps: int) -> Random | None:
    """The opposite; None for a chance that is not one of a whole number."""
    of = ((1 << 32) + steps) // (2 * steps) if steps else 0
    # kube-proxy writes ten decimals, which can be a step beside iptables' own rounding.
    return Random(of) if of and abs(steps_of(of) - steps) <= 1 else None


def states_in_order(states: Sequence[str]) -> list[str]:
    return sorted(states, key=lambda state: STATES.index(state) if state in STATES else len(STATES))


# --- words as a rule ----------------------------------------------------------------------


def parse_rule(words: Sequence[str], family: Family, chains: Container[str]) -> Rule:
    """The rule that these words spell, without `-A CHAIN`. `chains` are the table's own chains.

    Raises Malformed for an option without its value, and for an address of the other family.
    """
    matches: list[Match] = []
    at, end = 0, len(words)
    while at < end:
        start, word = at, words[at]
        if inverted := word == "!":
            at += 1
            word = words[at] if at < end else ""
        if word in ("-j", "-g") and not inverted:
            target = _target(word, words[at + 1 :], family, chains)
            return Rule(in_order(matches), target)
        at = _end_of_match(words, at, word)
        found = _head(word, inverted, words[start:at], family) if word in _HEADS else None
        if found is None and word == "-m" and not inverted:
            name, options = _value(words, start), tuple(words[start + 2 : at])
            if name in _PROTO_NUMBERS and not options:
                continue  # `-m tcp` alone asks no more than the `-p tcp` it comes with
            reader = _MATCHES.get(name)
            found = reader(name, options, family) if reader else None
        matches.append(ForeignMatch(tuple(words[start:at])) if found is None else found)
    return Rule(in_order(matches))


def _end_of_match(words: Sequence[str], at: int, word: str) -> int:
    """Where the next match, or the target, begins."""
    if word in _HEADS:
        return at + 1 + (word != "-f")
    at += 2 if word == "-m" else 1
    while at < len(words) and words[at] not in _ENDS:
        if words[at] == "!" and at + 1 < len(words) and words[at + 1] in _ENDS:
            break
        at += 2 if words[at] in _FREE else 1
    return at


def _value(words: Sequence[str], at: int) -> str:
    if at + 1 >= len(words):
        raise Malformed(f"{words[at]} without its value")
    return words[at + 1]


def _head(option: str, invert: bool, words: Sequence[str], family: Family) -> Match | None:
    value = _value(words, int(invert)) if option != "-f" else ""
    if option in ("-s", "-d"):
        prefix = _prefix(value, family)
        return prefix and (Source if option == "-s" else Destination)(prefix, invert)
    if option == "-i":
        begins = value.endswith("+")
        return InInterface(value.removesuffix("+"), begins, invert)
    if option == "-p" and value in _PROTO_NUMBERS and not invert:
        return Protocol(_PROTO_NUMBERS[value])
    return None


def _prefix(text: str, family: Family) -> Prefix | None:
    """None for what is no prefix: a mask with holes. Malformed for an address of the other family."""
    try:
        prefix = parse_prefix(text)
    except ValueError:
        return None
    if len(prefix.ip) != _SIZES[family]:
        raise Malformed(f"{text} in a rule of {family}tables")
    return prefix


def _number(text: str, most: int = _ALL) -> int | None:
    if not _NUMBER.fullmatch(text):
        return None
    number = int(text, 16 if text[:2] == "0x" else 10)
    return number if number <= most else None


def _value_and_mask(text: str) -> tuple[int, int] | None:
    value, slash, mask = text.partition("/")
    numbers = _number(value), _number(mask) if slash else _ALL
    return None if numbers[0] is None or numbers[1] is None else (numbers[0], numbers[1])


def _take_not(options: tuple[str, ...]) -> tuple[bool, tuple[str, ...]]:
    inverted = options[:1] == ("!",)
    return inverted, options[inverted:]


# Each reads the options of one match; None: kubeway has no object for them.


def _dport(name: str, options: tuple[str, ...], family: Family) -> Match | None:
    match options:
        case ("--tcp-flags", *flags) | ("!", "--tcp-flags", *flags) if name == "tcp":
            return Opening(options[0] == "!") if " ".join(flags) == _SYN else None
        case ("--dport", text):
            first, colon, end = text.partition(":")
            port, last = _number(first, 0xFFFF), _number(end, 0xFFFF) if colon else 0
            if port is None or last is None or (colon and last <= port):
                return None
            return Dport(_PROTO_NUMBERS[name], port, last)
        case _:
            return None


def _comment(name: str, options: tuple[str, ...], family: Family) -> Match | None:
    match options:
        case ("--comment", text):
            return Comment(text)
        case _:
            return None


def _ipvs(name: str, options: tuple[str, ...], family: Family) -> Match | None:
    invert, options = _take_not(options)
    return Balanced(invert) if options == ("--ipvs",) else None


def _nfacct(name: str, options: tuple[str, ...], family: Family) -> Match | None:
    match options:
        case ("--nfacct-name", text):
            return Nfacct(text)
        case _:
            return None


def _set(name: str, options: tuple[str, ...], family: Family) -> Match | None:
    invert, options = _take_not(options)
    match options:
        case ("--match-set", name, text):
            sides = [_SIDES[word] for word in text.split(",") if word in _SIDES]
            known = text == ",".join(sides) and 0 < len(sides) <= MOST_SIDES
            return InSet(name, tuple(sides), invert) if known else None
        case _:
            return None


def _addrtype(name: str, options: tuple[str, ...], family: Family) -> Match | None:
    match options:
        case ("--src-type", "LOCAL"):
            return AddrType("src")
        case ("--dst-type", "LOCAL"):
            return AddrType("dst")
        case _:
            return None


def _conntrack(name: str, options: tuple[str, ...], family: Family) -> Match | None:
    if options == ("--ctdir", "REPLY"):
        return Answering()
    invert, options = _take_not(options)
    match options:
        case ("--ctstate", text):
            states = text.split(",")
            known = len(set(states)) == len(states) and set(states) <= set(STATES)
            return CtState(tuple(states_in_order(states)), invert) if known else None
        case _:
            return None


def _mark(name: str, options: tuple[str, ...], family: Family) -> Match | None:
    invert, options = _take_not(options)
    match options:
        case ("--mark", text) if numbers := _value_and_mask(text):
            return (Mark if name == "mark" else ConnMark)(*numbers, invert)
        case _:
            return None


def _socket(name: str, options: tuple[str, ...], family: Family) -> Match | None:
    return Transparent() if options == ("--transparent",) else None


def _statistic(name: str, options: tuple[str, ...], family: Family) -> Match | None:
    match options:
        case ("--mode", "random", "--probability", text) if _CHANCE.fullmatch(text):
            return one_of(int(float(text) * (1 << 31) + 0.5))
        case _:
            return None


def _recent(name: str, options: tuple[str, ...], family: Family) -> Match | None:
    if options[-3:] != ("--mask", _WHOLE_MASK[family], "--rsource"):
        return None
    match options[:-3]:
        case ("--set", "--name", name):
            return Recent(name, "set")
        case ("--rcheck" | "--update" as how, "--name", name):
            return Recent(name, "check" if how == "--rcheck" else "update")
        case ("--rcheck" | "--update" as how, "--seconds", text, "--reap", "--name", name) if (
            seconds := _number(text)
        ):
            return Recent(name, "check" if how == "--rcheck" else "update", seconds)
        case _:
            return None


_MATCHES: Final[dict[str, Callable[[str, tuple[str, ...], Family], Match | None]]] = {
    **dict.fromkeys(_PROTO_NUMBERS, _dport),
    "addrtype": _addrtype,
    "comment": _comment,
    "connmark": _mark,
    "conntrack": _conntrack,
    "mark": _mark,
    "ipvs": _ipvs,
    "nfacct": _nfacct,
    "recent": _recent,
    "set": _set,
    "socket": _socket,
    "statistic": _statistic,
}


def _target(option: str, words: Sequence[str], family: Family, chains: Container[str]) -> Target:
    if not words:
        raise Malformed(f"{option} without its value")
    name, *options = words
    found: Target | None = None
    if not options and (name in chains or name.startswith(PREFIX)):
        found = Jump(name) if option == "-j" else Goto(name)
    elif option == "-j":
        match words:
            case [("ACCEPT" | "DROP" | "RETURN") as verdict]:
                found = _VERDICTS[verdict]
            case ["DNAT", "--to-destination", text]:
                found = _dnat(text, family)
            case ["MARK", "--set-xmark", text] if numbers := _value_and_mask(text):
                found = MarkXset(*numbers)
            case ["CONNMARK", "--set-xmark", text] if numbers := _value_and_mask(text):
                found = ConnMarkXset(*numbers)
            case ["TPROXY", "--on-port", port, "--on-ip", ip, "--tproxy-mark", text]:
                found = _tproxy(port, ip, text, family)
            case ["MASQUERADE"]:
                found = Masquerade(fully=False)
            case ["MASQUERADE", "--random-fully"]:
                found = Masquerade()
            case ["REJECT", "--reject-with", how] if how == _REJECT_WITH[family]:
                found = Reject()
            case _:
                pass
    return ForeignTarget((option, *words)) if found is None else found


def _tproxy(port: str, ip: str, text: str, family: Family) -> Target | None:
    number, numbers = _number(port, 0xFFFF), _value_and_mask(text)
    try:
        to = parse_ip(ip)
    except ValueError:
        return None
    if number is None or numbers is None or len(to) != _SIZES[family]:
        return None
    return Tproxy(to, number, *numbers)


def _dnat(text: str, family: Family) -> Target | None:
    """One address and one port. Ranges, and addresses alone, are not ours."""
    address, colon, port = text.rpartition(":")
    if address.startswith("[") != (family == "ip6") or not colon:
        return None
    number = _number(port, 0xFFFF)
    try:
        ip = parse_ip(address.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    return Dnat(ip, number) if number is not None and len(ip) == _SIZES[family] else None
