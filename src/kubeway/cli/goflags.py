"""
A command line as Go programs read theirs (github.com/spf13/pflag), and the usage text for it.

    --name=value   --name value   -v 2   -v=2   -v2   --switch   --switch=false   --

A long name may stand behind one dash too, and `_` in it counts as `-`. What does not fit is a
`WrongLine` in pflag's words. Knows the table of flags; what they mean is others' business.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

from kubeway.model.config_flags import BY_NAME, FOR_PROXY, Flag, read
from kubeway.model.config_words import quote

PROGRAM: Final = "kubeway-proxy"

# These need no value; alone they mean this. A value is given with `=` only.
_ALONE: Final = {"bool": "true", "version": "true"}
_SHORT: Final = {flag.short: flag for flag in FOR_PROXY if flag.short}
_TAKEN: Final = {flag.name for flag in FOR_PROXY}
_WIDTH: Final = 100


class WrongLine(Exception):
    """The command line cannot be read."""


class HelpAsked(Exception):
    """Somebody wants to read the usage."""


def parse(words: Sequence[str]) -> dict[str, list[str]]:
    """The flags with the texts of their mentions, each of which can be read.

    WrongLine for what is not a flag or not its value; HelpAsked for -h.
    """
    given: dict[str, list[str]] = {}
    left = list(words)
    strays: list[str] = []
    while left:
        word = left.pop(0)
        if word == "--":
            strays += left
            break
        if len(word) < 2 or not word.startswith("-"):
            strays.append(word)
            continue
        flag, shown, value = _split(word)
        if value is None:
            value = _ALONE.get(flag.kind)
        if value is None:
            if not left:
                needs = f"{quote_char(flag.short)} in {word}" if shown.startswith("-v,") else f"--{flag.name}"
                raise WrongLine(f"flag needs an argument: {needs}")
            value = left.pop(0)
        try:
            read(flag, value)
        except ValueError as error:
            raise WrongLine(f"invalid argument {quote(value)} for {quote(shown)} flag: {error}") from None
        given.setdefault(flag.name, []).append(value)
    if any(strays):
        got = " ".join(map(quote, strays))
        raise WrongLine(f"{quote(PROGRAM)} does not take any arguments, got [{got}]")
    return given


def _split(word: str) -> tuple[Flag, str, str | None]:
    """The flag of a word, how messages show it, and the value if that is in the word too."""
    body = word[2:] if word.startswith("--") else word[1:]
    name, equals, text = body.partition("=")
    value = text if equals else None
    if not name or name.startswith("-"):
        raise WrongLine(f"bad flag syntax: {word}")
    if name in ("help", "h"):
        raise HelpAsked
    long = name.replace("_", "-")
    if word.startswith("--") or (long in _TAKEN and long not in _SHORT):
        if long not in _TAKEN:
            raise WrongLine(f"unknown flag: --{name}")
        flag = BY_NAME[long]
        return flag, _shown(flag), value
    short = _SHORT.get(body[0])
    if short is None:
        raise WrongLine(f"unknown shorthand flag: {quote_char(body[0])} in {word}")
    rest = body[1:].removeprefix("=")
    return short, _shown(short), rest if body[1:] else None


def _shown(flag: Flag) -> str:
    return f"-{flag.short}, --{flag.name}" if flag.short else f"--{flag.name}"


def quote_char(char: str) -> str:
    return "'" + char + "'"


def usage() -> str:
    """What -h prints: every flag that is not old, by name."""
    lines = [
        f"{PROGRAM} does on a node what kube-proxy does, and takes the same command line.",
        "",
        "Usage:",
        f"  {PROGRAM} [flags]",
        "",
        "Flags:",
    ]
    for flag in sorted(FOR_PROXY):
        if flag.old:
            continue
        head = f"  -{flag.short}, " if flag.short else "      "
        meta = f"[={flag.metavar}]" if flag.kind == "version" else f" {flag.metavar}" if flag.metavar else ""
        lines.append(f"{head}--{flag.name}{meta}")
        default = f" (default {flag.default})" if flag.default not in ("", "false", "0", "0s") else ""
        lines += textwrap.wrap(
            flag.help + default, _WIDTH, initial_indent=" " * 10, subsequent_indent=" " * 10
        )
    lines += ["  -h, --help", "          Print this, and end.", ""]
    lines.append("With --config only these of them count:")
    kept = ", ".join(f"--{flag.name}" for flag in sorted(FOR_PROXY) if flag.always)
    lines += textwrap.wrap(kept, _WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)
