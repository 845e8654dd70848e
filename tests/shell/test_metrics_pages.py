"""The pages of the metrics address: paths, bodies and headers as kube-proxy's."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from kubeway import records
from kubeway.shell.http import NOT_FOUND, Answer, Ask
from kubeway.shell.metrics import Metrics
from kubeway.shell.metrics_pages import Pages

STARTED = 1_795_000_000_000_000_000
CONFIG = {"kind": "KubeProxyConfiguration", "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "mode": ""}


def pages(*, profiling: bool = False, verbosity: list[int] | None = None) -> Pages:
    return Pages(
        Metrics(),
        mode="nftables",
        started=STARTED,
        configz=lambda: CONFIG,
        flags=lambda: {"v": "2", "cleanup": "false", "config": "/etc/config.conf"},
        profiling=profiling,
        set_verbosity=(verbosity if verbosity is not None else []).append,
        now=lambda: STARTED + 3_725_000_000_000,
    )


def ask(
    path: str,
    method: str = "GET",
    *,
    made: Pages | None = None,
    query: dict[str, list[str]] | None = None,
    accept: str = "",
    body: bytes = b"",
) -> Answer:
    async def read() -> bytes:
        return body

    return asyncio.run((made or pages()).answer(Ask(path, method, query or {}, accept, read)))


def text(answer: Answer) -> str:
    return answer.body if isinstance(answer.body, str) else answer.body.decode()


def test_metrics() -> None:
    made = pages()
    made._metrics.record(records.Drifted(1, 0, 0))
    answer = ask("/metrics", made=made)
    assert (answer.status, answer.type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert answer.headers == {"Process-Start-Time-Unix": "1795000000"}
    assert "\nkubeway_drifts_total 1.0\n" in text(answer)


def test_slis_count_how_often_they_were_asked() -> None:
    made = pages()
    ask("/metrics/slis", made=made)
    body = text(ask("/metrics/slis", made=made))
    assert 'kubernetes_healthcheck{name="ping",type="healthz"} 1.0\n' in body
    assert 'kubernetes_healthchecks_total{name="ping",status="success",type="healthz"} 2.0\n' in body
    assert re.search(r"^process_start_time_seconds \S+$", body, re.M)
    assert "_created" not in body


def test_the_mode() -> None:
    assert ask("/proxyMode") == Answer(200, "nftables", "text/plain; charset=utf-8")


@pytest.mark.parametrize(
    ("path", "query", "body"),
    [
        ("/healthz", {}, "ok"),
        ("/healthz/ping", {}, "ok"),
        ("/healthz", {"verbose": [""]}, "[+]ping ok\nhealthz check passed\n"),
    ],
)
def test_the_bare_ping(path: str, query: dict[str, list[str]], body: str) -> None:
    assert ask(path, query=query) == Answer(200, body, "text/plain; charset=utf-8")


def test_the_configuration_in_its_order() -> None:
    answer = ask("/configz")
    assert answer.type == "application/json"
    assert text(answer) == json.dumps({"kubeproxy.config.k8s.io": CONFIG}, separators=(",", ":"))


def test_flags_for_people() -> None:
    lines = text(ask("/flagz")).splitlines()
    assert lines[1] == "kube-proxy flagz"
    assert lines[2].startswith("Warning: ")
    assert lines[4:] == ["cleanup: false", "config: /etc/config.conf", "v: 2"]


def test_status_for_people() -> None:
    lines = text(ask("/statusz")).splitlines()
    assert lines[1] == "kube-proxy statusz"
    said = dict(line.split(": ", 1) for line in lines[4:])
    assert said["Started"] == "Wed Nov 18 11:06:40 UTC 2026"
    assert said["Up"] == "1 hr 02 min 05 sec"
    assert said["Paths"] == "/configz /flagz /healthz /metrics /proxyMode"
    assert said["Emulation version"] == "1.36"


@pytest.mark.parametrize(("version", "warned"), [("v1alpha1", True), ("v1beta1", False)])
def test_flags_and_status_for_tools(version: str, warned: bool) -> None:
    for kind in ("Flagz", "Statusz"):
        accept = f"text/html, application/json;v={version}; g=config.k8s.io;as={kind}"
        answer = ask(f"/{kind.lower()}", accept=accept)
        body = json.loads(answer.body)
        assert body["kind"] == kind
        assert body["apiVersion"] == f"config.k8s.io/{version}"
        assert body["metadata"] == {"name": "kube-proxy"}
        assert ("Warning" in answer.headers) is warned
    assert body["startTime"] == "2026-11-18T11:06:40Z"
    assert body["uptimeSeconds"] == 3725


@pytest.mark.parametrize(
    "accept",
    [
        "application/json;v=v2;g=config.k8s.io;as=Flagz",
        "application/json",
        ";;,=",
        "application/json;as=Flagz",
    ],
)
def test_what_is_not_known_is_answered_for_people(accept: str) -> None:
    assert text(ask("/flagz", accept=accept)).startswith("\nkube-proxy flagz\n")


@pytest.mark.parametrize("profiling", [False, True])
@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/metrics/", "/debug/pprof", "/x"])
def test_other_paths_are_not_found(path: str, profiling: bool) -> None:
    assert ask(path, made=pages(profiling=profiling)) == NOT_FOUND


def test_the_verbosity_can_be_set_where_profiling_is_on() -> None:
    verbosity: list[int] = []
    made = pages(profiling=True, verbosity=verbosity)
    answer = ask("/debug/flags/v", "PUT", made=made, body=b"4\n")
    assert (answer.status, answer.body) == (200, "successfully set klog.logging.verbosity to 4")
    assert verbosity == [4]
    refused = ask("/debug/flags/v", made=made)
    assert (refused.status, refused.body) == (406, "unsupported http method")
    for bad in (b"", b"-1", b"many", b"\xff", "٣".encode(), b"9" * 20):
        assert ask("/debug/flags/v", "PUT", made=made, body=bad).status == 400
    assert verbosity == [4]
    assert ask("/debug/flags/v", "PUT", made=pages(verbosity=verbosity), body=b"4") == NOT_FOUND
