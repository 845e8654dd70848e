"""
What the metrics address answers: metrics, and what people and tools ask of a component.

    /metrics /metrics/slis /proxyMode /healthz[/ping] /configz /flagz /statusz
    /debug/flags/v      with profiling: PUT a number to change the verbosity

Paths, types and bodies are kube-proxy's. Everything else is 404, /debug/pprof too:
its profiles are those of Go's runtime.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import kubeway
from kubeway.shell import clock
from kubeway.shell.http import NOT_FOUND, TEXT, Answer, Ask, json_answer
from kubeway.shell.metrics import CONTENT_TYPE, KUBERNETES, Metrics

_PATHS: Final = ("/configz", "/flagz", "/healthz", "/metrics", "/proxyMode")
_VERSIONS: Final = ("v1alpha1", "v1beta1")
_WARNING: Final = (
    "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility "
    "guarantees and is for debugging purposes only."
)


class Pages:
    """`configz` and `flags` are asked each time; `started` is in nanoseconds since 1970.

    `set_verbosity` is for those with `profiling`. `plain` values only come from
    `configz`: what JSON can say.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        mode: str,
        started: int,
        configz: Callable[[], Mapping[str, Any]] = dict,
        flags: Callable[[], Mapping[str, str]] = dict,
        profiling: bool = False,
        set_verbosity: Callable[[int], None] = lambda number: None,
        now: Callable[[], int] = clock.wall,
    ) -> None:
        from kubeway.shell.metrics_process import Slis

        self._metrics, self._slis = metrics, Slis()
        self._mode, self._started, self._now = mode, started, now
        self._configz, self._flags = configz, flags
        self._profiling, self._set_verbosity = profiling, set_verbosity

    async def answer(self, ask: Ask) -> Answer:
        match ask.path:
            case "/metrics":
                await self._metrics.ask()
                started = {"Process-Start-Time-Unix": str(self._started // 1_000_000_000)}
                return Answer(200, self._metrics.text(), CONTENT_TYPE, started)
            case "/metrics/slis":
                self._slis.checked()
                return Answer(200, self._slis.text(), CONTENT_TYPE)
            case "/proxyMode":
                return Answer(200, self._mode, TEXT)
            case "/healthz" | "/healthz/ping":
                wordy = ask.path == "/healthz" and "verbose" in ask.query
                return Answer(200, "[+]ping ok\nhealthz check passed\n" if wordy else "ok", TEXT)
            case "/configz":
                return json_answer(200, {"kubeproxy.config.k8s.io": self._configz()})
            case "/flagz":
                return self._flagz(ask)
            case "/statusz":
                return self._statusz(ask)
            case "/debug/flags/v" if self._profiling:
                return await self._verbosity(ask)
            case _:
                return NOT_FOUND

    def _flagz(self, ask: Ask) -> Answer:
        flags = dict(sorted(self._flags().items()))
        if version := _structured(ask.accept, "Flagz"):
            return _structure("Flagz", version, {"flags": flags})
        return _page("flagz", (f"{name}: {value}" for name, value in flags.items()))

    def _statusz(self, ask: Ask) -> Answer:
        started = datetime.fromtimestamp(self._started // 1_000_000_000, UTC)
        up = (self._now() - self._started) // 1_000_000_000
        language = f"python{platform.python_version()}"
        version = f"{KUBERNETES}.0+kubeway.{kubeway.__version__}"
        if form := _structured(ask.accept, "Statusz"):
            status = {
                "startTime": f"{started:%Y-%m-%dT%H:%M:%SZ}",
                "uptimeSeconds": up,
                "goVersion": language,
                "binaryVersion": version,
                "emulationVersion": KUBERNETES,
                "paths": list(_PATHS),
            }
            return _structure("Statusz", form, status)
        lines = (
            f"Started: {started:%a %b %e %H:%M:%S} UTC {started:%Y}",
            f"Up: {up // 3600} hr {up % 3600 // 60:02d} min {up % 60:02d} sec",
            f"Go version: {language}",
            f"Binary version: {version}",
            f"Emulation version: {KUBERNETES}",
            f"Paths: {' '.join(_PATHS)}",
        )
        return _page("statusz", lines)

    async def _verbosity(self, ask: Ask) -> Answer:
        if ask.method != "PUT":
            return Answer(406, "unsupported http method", TEXT)
        text = (await ask.body()).decode(errors="replace").strip()
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            return Answer(400, f"{text[:40]!r} is not a verbosity, a number from 0", TEXT)
        self._set_verbosity(int(text))
        return Answer(200, f"successfully set klog.logging.verbosity to {int(text)}", TEXT)


def _page(name: str, lines: Iterable[str]) -> Answer:
    text = "".join(f"{line}\n" for line in lines)
    return Answer(200, f"\nkube-proxy {name}\n{_WARNING}\n\n{text}", TEXT)


def _structured(accept: str, kind: str) -> str:
    """The version asked for by `application/json;v=v1beta1;g=config.k8s.io;as=Flagz`; "" if none is."""
    for one in accept.split(","):
        media, *parameters = (word.strip() for word in one.split(";"))
        said = dict(word.partition("=")[::2] for word in parameters)
        if media == "application/json" and (said.get("g"), said.get("as")) == ("config.k8s.io", kind):
            version = said.get("v", "")
            return version if version in _VERSIONS else ""
    return ""


def _structure(kind: str, version: str, fields: Mapping[str, object]) -> Answer:
    head = {"kind": kind, "apiVersion": f"config.k8s.io/{version}", "metadata": {"name": "kube-proxy"}}
    answer = json_answer(200, {**head, **fields})
    if version == "v1alpha1":
        old = f'299 - "config.k8s.io/v1alpha1 {kind} is deprecated; use config.k8s.io/v1beta1 {kind}"'
        return answer._replace(headers={"Warning": old})
    return answer
