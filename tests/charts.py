"""
As much of Helm as our chart uses: its templates, with values, to text.

    {{ .Values.a.b }}   {{ .Chart.AppVersion }}   {{ .Release.Namespace }}   {{ . }}
    {{ … | default x }}   {{ toYaml … | nindent 8 }}   {{ eq … "text" }}   {{ ne … "text" }}
    {{ if … }}   {{ with … }}   {{ end }}   and `-` at either end, for the blanks there

What else there is in Go's templates is an error here, so that the chart stays this simple.
Knows no files and no Kubernetes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

_ACTION = re.compile(r"\{\{(-(?=\s))?\s*(.*?)\s*((?<=\s)-)?\}\}", re.S)
_WORD = re.compile(r'"[^"]*"|\S+')


class _Token(NamedTuple):
    text: str
    is_action: bool


def render(template: str, context: Mapping[str, Any]) -> str:
    """`context` holds Values, Chart and Release. ValueError for what is not known here."""
    tokens = list(_tokens(template))
    text, rest = _block(tokens, 0, context, context)
    if rest != len(tokens):
        raise ValueError(f"nothing is open that {tokens[rest].text!r} could end")
    return text


def merged(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Values as Helm lays a user's over the chart's: mappings are laid over, all else is replaced."""
    both = dict(values)
    for name, value in others.items():
        mine = both.get(name)
        is_deep = isinstance(mine, Mapping) and isinstance(value, Mapping)
        both[name] = merged(mine, value) if is_deep else value
    return both


def _tokens(template: str) -> Iterator[_Token]:
    at, trim = 0, False
    for found in _ACTION.finditer(template):
        text = template[at : found.start()]
        text = text.lstrip() if trim else text
        yield _Token(text.rstrip() if found[1] else text, False)
        yield _Token(found[2], True)
        at, trim = found.end(), bool(found[3])
    yield _Token(template[at:].lstrip() if trim else template[at:], False)


def _block(tokens: list[_Token], at: int, dot: Any, root: Mapping[str, Any]) -> tuple[str, int]:
    """The text up to the `end` that closes this block, and where that is."""
    text = ""
    while at < len(tokens):
        token = tokens[at]
        word, _, about = token.text.partition(" ")
        if not token.is_action:
            text += token.text
        elif word in ("if", "with"):
            value = _value(about, dot, root)
            inner, at = _block(tokens, at + 1, value if word == "with" and value else dot, root)
            if at == len(tokens):
                raise ValueError(f"{token.text!r} has no end")
            text += inner if value else ""
        elif word == "end":
            break
        else:
            value = _value(token.text, dot, root)
            text += (
                {True: "true", False: "false", None: ""}.get(value, value) if _plain(value) else str(value)
            )
        at += 1
    return text, at


def _plain(value: Any) -> bool:
    if isinstance(value, dict | list):
        raise ValueError(f"{value!r} needs toYaml")
    return isinstance(value, bool | str) or value is None


def _value(pipeline: str, dot: Any, root: Mapping[str, Any]) -> Any:
    value: Any = None
    for number, part in enumerate(pipeline.split(" | ")):
        words = _WORD.findall(part)
        value = _call(words, [value] if number else [], dot, root)
    return value


def _call(words: list[str], piped: list[Any], dot: Any, root: Mapping[str, Any]) -> Any:
    name = words[0]
    arguments = [_operand(word, dot, root) for word in words[1:]] + piped
    if name == "toYaml" and len(arguments) == 1:
        return yaml.safe_dump(arguments[0], default_flow_style=False).removesuffix("\n")
    if name == "nindent" and len(arguments) == 2:
        pad = " " * arguments[0]
        return "\n" + "\n".join(pad + line for line in arguments[1].split("\n"))
    if name == "default" and len(arguments) == 2:
        return arguments[1] or arguments[0]
    if name == "eq" and len(arguments) == 2:
        return arguments[0] == arguments[1]
    if name == "ne" and len(arguments) == 2:
        return arguments[0] != arguments[1]
    if arguments:
        raise ValueError(f"{name}: not a function that is known here")
    return _operand(name, dot, root)


def _operand(word: str, dot: Any, root: Mapping[str, Any]) -> Any:
    if word == ".":
        return dot
    if word.startswith('"') and word.endswith('"'):
        return word[1:-1]
    if word.isdigit():
        return int(word)
    if not re.fullmatch(r"(\.[A-Za-z]+)+", word):
        raise ValueError(f"{word!r} is not known here")
    # Within `with`, the dot is another one; Helm's chart authors have `$` for the outer, and we need none.
    value: Any = dot
    for step in word[1:].split("."):
        if step not in value:
            raise ValueError(f"{word}: there is no {step}")
        value = value[step]
    return value
