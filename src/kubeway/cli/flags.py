"""
The options of `kubeway`'s commands: those of the daemon's table, and a few that several commands share.

They are only spelled here; `shell.asked` reads and checks them. Nothing heavy is imported, so that
`kubeway COMMAND --help` answers at once.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any, Final, get_type_hints

import typer

from kubeway.model.config_flags import BY_NAME, FLAGS, Flag

GIVEN: Final = "given"
MODE: Final = "nftables"
"""The mode if nobody says otherwise."""

DAEMON: Final = tuple(flag for flag in FLAGS if flag.kind != "version")
"""What `kubeway run` takes: all but --version, which is a command of its own."""

PROGRAM: Final = tuple(
    BY_NAME[name]
    for name in (
        "config",
        "cluster-cidr",
        "proxy-mode",
        "detect-local-mode",
        "pod-bridge-interface",
        "pod-interface-name-prefix",
        "nodeport-addresses",
        "masquerade-all",
        "masquerade-bit",
        "feature-gates",
        "kubeway-steering",
    )
)
"""What decides how the program of a node is."""

_SWITCH: Final = re.compile(r"--([a-z0-9-]+)=(.*)", re.S)
_REPEATABLE: Final = ("gates", "list", "strings", "vmodule")


def flag(*names: str, metavar: str | None = None, help: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, show_default=True)


Manifests = Annotated[
    list[str],
    flag(
        "--manifests",
        metavar="PATH",
        help="File or directory (*.yaml, *.yml, *.json) of Kubernetes objects; repeatable.",
    ),
]
Node = Annotated[
    str,
    flag(
        "--node",
        "--node-name",
        metavar="NAME",
        help="The node to be; by default the only one in the manifests.",
    ),
]


def with_flags(flags: Sequence[Flag]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these options. Those on its line it is handed as `given`, texts by name."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(command).parameters.items()
            if name != GIVEN
        ]
        options = {_python_name(flag): flag for flag in flags}

        @wraps(command)
        def called(**values: Any) -> None:
            given: dict[str, list[str]] = {}
            for name, flag in options.items():
                if (value := values.pop(name)) is not None:
                    texts = value if isinstance(value, list) else [value]
                    given[flag.name] = [_text(flag, text) for text in texts]
            if "config" not in given:
                given.setdefault("proxy-mode", [MODE])
            command(**values, given=given)

        parameters = [*own, *map(_parameter, flags)]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return called

    return decorate


def spelled_out(words: Sequence[str]) -> list[str]:
    """A command line with `--switch=true` and `--switch=false` as typer has them."""
    return [_spelled_out(word) for word in words]


def _spelled_out(word: str) -> str:
    found = _SWITCH.fullmatch(word)
    flag = BY_NAME.get(found[1]) if found else None
    if found is None or flag is None or flag.kind != "bool":
        return word
    value = {"true": f"--{flag.name}", "false": f"--no-{flag.name}"}
    return value.get(found[2].lower(), word)


def _parameter(flag: Flag) -> inspect.Parameter:
    default = MODE if flag.name == "proxy-mode" else flag.default
    shown = f" [default: {default}]" if default not in ("", "false", "0", "0s") else ""
    names = [f"--{flag.name}/--no-{flag.name}"] if flag.kind == "bool" else [f"--{flag.name}"]
    if flag.short:
        names.insert(0, f"-{flag.short}")
    option = typer.Option(
        *names,
        metavar=None if flag.kind == "bool" else flag.metavar,
        help=flag.help + shown,
        show_default=False,
        hidden=bool(flag.old),
    )
    kind = bool if flag.kind == "bool" else list[str] if flag.kind in _REPEATABLE else str
    return inspect.Parameter(
        _python_name(flag),
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _python_name(flag: Flag) -> str:
    return flag.name.replace("-", "_")


def _text(flag: Flag, value: str | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    # `-v=2`, as users of kube-proxy write it, arrives as `=2`.
    return value.removeprefix("=") if flag.short else value
