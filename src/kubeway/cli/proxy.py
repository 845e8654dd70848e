"""
`kubeway-proxy`: kube-proxy's command line, to the letter.

Exit codes are kube-proxy's: 0 for what was asked for and done, 1 for every mistake and failure.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import kubeway
from kubeway.cli import goflags
from kubeway.errors import KubewayError
from kubeway.model.config_words import parse_bool, quote


def main(words: Sequence[str] | None = None) -> int:
    """The console script."""
    try:
        given = goflags.parse(sys.argv[1:] if words is None else words)
        if (version := _version(given)) is not None:
            return _say(version)
    except goflags.HelpAsked:
        return _say(goflags.usage())
    except goflags.WrongLine as error:
        from kubeway.shell.logs import one_line

        print(f"{goflags.usage()}\n\nError: {one_line(str(error))}", file=sys.stderr)
        return 1
    from kubeway.cli.run import start

    try:
        return start(given)
    except KubewayError as error:
        from kubeway.shell.logs import one_line

        print(f"{goflags.PROGRAM}: {one_line(str(error))}", file=sys.stderr)
        return 1


def _say(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Whoever reads has read enough. What is still held must not fail once more at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _version(given: dict[str, list[str]]) -> str | None:
    """What --version prints; None if it says only what to report, or nothing."""
    asked = given.get("version", ["false"])[-1]
    if asked.startswith("v"):
        return None
    from kubeway.model.configuration import KUBERNETES

    major, minor = KUBERNETES
    # Tools read the second word as a version; what we are stands behind its plus sign.
    name = f"v{major}.{minor}.0+kubeway.{kubeway.__version__}"
    if asked == "raw":
        python = ".".join(map(str, sys.version_info[:3]))
        return (
            f'version.Info{{Major:"{major}", Minor:"{minor}", GitVersion:"{name}", '
            f'Compiler:"python{python}", Platform:"{sys.platform}"}}'
        )
    try:
        return f"Kubernetes {name}" if parse_bool(asked) else None
    except ValueError as error:
        raise goflags.WrongLine(
            f'invalid argument {quote(asked)} for "--version" flag: {error}, nor raw, nor of the form vX.Y.Z'
        ) from None


if __name__ == "__main__":
    sys.exit(main())
