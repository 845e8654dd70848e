"""
That docs/drop-in.md and the code name each other: flags, fields, gates, paths, metrics, events.

What a row says in words nobody can test here; that it is there, and what kind of row it is, is tested.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, get_args

import pytest
import yaml
from msgspec import Struct
from msgspec.structs import fields

from kubeway.machines.convergence import Convergence
from kubeway.machines.vitals import Vitals
from kubeway.model import configuration
from kubeway.model.api import ServiceAnnotations
from kubeway.model.config_flags import FLAGS
from kubeway.model.config_gates import GATES
from kubeway.model.configuration import Configuration
from kubeway.planes.xtables.tally import Tally
from kubeway.shell.apiserver import resources
from kubeway.shell.asked import settle
from kubeway.shell.events import Reason
from kubeway.shell.http import Ask, respond
from kubeway.shell.metrics import Metrics
from kubeway.shell.metrics_pages import Pages
from kubeway.shell.options import MODES
from kubeway.shell.outfit import Figures
from kubeway.shell.readyz import Readiness
from kubeway.shell.relay.orders import Sums

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "drop-in.md").read_text()
WORDS = {"same", "differs", "accepted", "absent", "new"}


class Row(NamedTuple):
    cells: tuple[str, ...]
    name: str
    word: str
    how: str


def table(heading: str, number: int = 0) -> dict[str, Row]:
    """The rows of a table under a heading, by the name in their first cell."""
    section = re.split(rf"^#+ {re.escape(heading)}$", TEXT, flags=re.M)[1]
    section = re.split(r"^#+ ", section, flags=re.M)[0]
    blocks = re.findall(r"^\|.*\n\|[-|]+\n((?:\|.*\n)+)", section, flags=re.M)
    rows = {}
    for line in blocks[number].splitlines():
        cells = tuple(cell.strip() for cell in line.strip("|").split("|"))
        name = re.match(r"`([^`]+)`", cells[0])
        assert name, line
        assert name[1] not in rows, line
        rows[name[1]] = Row(cells, name[1], cells[-2], cells[-1])
    return rows


FLAG_ROWS = table("The command line")
FIELD_ROWS = table("The configuration file")
METRIC_ROWS = table("Metrics")


def test_every_row_says_how_it_stands() -> None:
    for heading in ("The command line", "The configuration file", "Feature gates", "The API", "Metrics"):
        for row in table(heading).values():
            assert row.word in WORDS, row
            # What differs or is missing from a version has its reason.
            assert row.how or row.word != "differs", row


# --- flags ----------------------------------------------------------------------------------


def test_flags_are_those_of_the_table() -> None:
    assert {name.removeprefix("--") for name in FLAG_ROWS} == {flag.name for flag in FLAGS}


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_a_flag_is_what_its_row_says(flag: Any) -> None:
    row = FLAG_ROWS[f"--{flag.name}"]
    assert ("*" in row.cells[0]) == flag.always
    if row.word == "new":
        assert flag.only
    elif flag.only:
        assert "until 1.25" in row.how or row.how == "likewise"
    if flag.only == "run":
        assert "`kubeway run` only" in row.how
    if flag.old:
        assert "deprecated" in row.how


# Another value than the default, for what is accepted and changes nothing.
OTHER = {
    "kube-api-content-type": "application/json",
    "kube-api-burst": "7",
    "kube-api-qps": "7",
    "config-sync-period": "7s",
    "show-hidden-metrics-for-version": "1.35",
    "vmodule": "a=1",
    "log-flush-frequency": "7s",
    "log-text-split-stream": "true",
    "log-text-info-buffer-size": "7",
    "log-json-split-stream": "true",
    "log-json-info-buffer-size": "7",
    "proxy-port-range": "1-2",
}


def test_what_is_accepted_is_told_once() -> None:
    accepted = {name.removeprefix("--") for name, row in FLAG_ROWS.items() if row.word == "accepted"}
    assert accepted == OTHER.keys()
    given = {name: [value] for name, value in OTHER.items()}
    asked = settle({**given, "proxy-mode": ["nftables"], "feature-gates": ["LoggingAlphaOptions=true"]})
    (told,) = [note for note in asked.notes if "without effect" in note]
    named = {flag.path for flag in FLAGS if flag.name in accepted}
    assert set(told.partition(": ")[2].split(", ")) == named


@pytest.mark.parametrize("mode", MODES)
def test_the_udp_timeout_matters_in_its_mode_and_is_told_in_the_others(mode: str) -> None:
    asked = settle({"proxy-mode": [mode], "udp-timeout": ["7s"]})
    told = [note for note in asked.notes if "udpIdleTimeout" in note]
    assert bool(told) == (mode != "userspace")
    assert all("without effect" in note for note in told)


def test_other_modes_are_refused_as_the_row_says() -> None:
    said = re.findall(r"`(\w+)`", FLAG_ROWS["--proxy-mode"].how)
    assert tuple(said) == MODES


# --- fields ---------------------------------------------------------------------------------


def paths(kind: type[Struct], above: str = "") -> Iterator[str]:
    for field in fields(kind):
        inner = None if field.encode_name == "vmodule" else configuration._struct(field.type)
        if inner is None:
            yield above + field.encode_name
        else:
            yield from paths(inner, f"{above}{field.encode_name}.")


def test_fields_are_those_of_the_configuration() -> None:
    assert list(FIELD_ROWS) == list(paths(Configuration))


def test_a_field_is_what_its_flag_is() -> None:
    for flag in FLAGS:
        if flag.path and not flag.only:
            field, its = FIELD_ROWS[flag.path], FLAG_ROWS[f"--{flag.name}"]
            # In a file, an empty address is the default, with kube-proxy as here.
            exception = flag.path in ("healthzBindAddress", "metricsBindAddress")
            assert (field.word == its.word) != exception, flag.name


def test_what_is_accepted_in_a_file_is_told(tmp_path: Path) -> None:
    accepted = {name for name, row in FIELD_ROWS.items() if row.word == "accepted"}
    other: dict[str, str] = {flag.path: OTHER[flag.name] for flag in FLAGS if flag.name in OTHER}
    other |= {
        "logging.vmodule": "[{filePattern: a, verbosity: 1}]",
        "clientConnection.acceptContentTypes": "application/json",
        "portRange": "1-2",
        "windowsRunAsService": "true",
        "winkernel.networkName": "x",
        "winkernel.sourceVip": "10.0.0.1",
        "winkernel.enableDSR": "true",
        "winkernel.rootHnsEndpointName": "x",
        "winkernel.forwardHealthCheckVip": "true",
    }
    assert other.keys() == accepted
    document: dict[str, Any] = {
        "apiVersion": configuration.API_VERSION,
        "kind": configuration.KIND,
        "mode": "nftables",
        "featureGates": {"LoggingAlphaOptions": True},
    }
    for path, value in other.items():
        *above, name = path.split(".")
        into = document
        for step in above:
            into = into.setdefault(step, {})
        plain = path.endswith("showHiddenMetricsForVersion")
        into[name] = value if plain else yaml.safe_load(value)
    file = tmp_path / "config.conf"
    file.write_text(yaml.safe_dump(document))
    asked = settle({"config": [str(file)]})
    (told,) = [note for note in asked.notes if "without effect" in note]
    assert set(told.partition(": ")[2].split(", ")) == accepted


def test_annotations_are_those_of_the_table() -> None:
    rows = table("What a Service can ask for")
    assert list(rows) == [field.encode_name for field in fields(ServiceAnnotations)]
    assert {row.word for row in rows.values()} == {"new"}


def test_gates_are_those_of_the_table() -> None:
    rows = table("Feature gates")
    assert rows.keys() == GATES.keys()
    for name, gate in GATES.items():
        assert gate.locked == rows[name].how.startswith("locked"), name
        assert bool(gate.effect) == (rows[name].word == "same"), name


# --- the API --------------------------------------------------------------------------------


def test_what_is_asked_for_is_in_the_table() -> None:
    rows = table("The API")
    assert rows.keys() == {one.path.rpartition("/")[2] for one in resources("")} | {"events"}
    for one in resources(""):
        for value in one.selectors.values():
            assert value in rows[one.path.rpartition("/")[2]].how


def test_events_are_in_the_table() -> None:
    rows = table("Events")
    assert {name for name, row in rows.items() if row.word == "same"} == set(get_args(Reason))
    assert {row.word for row in rows.values()} == {"same", "absent"}


# --- paths ----------------------------------------------------------------------------------


def test_the_health_addresss_paths_answer() -> None:
    rows, vitals = table("On the health address"), Vitals()
    assert rows.keys() == {"/healthz", "/livez", "/readyz"}
    for path in rows:
        if path == "/readyz":
            readiness = Readiness(vitals, Convergence(()))
            assert asyncio.run(readiness.answer({})).status == 503
        else:
            assert respond(path, vitals, True, 0).status == 200


def test_the_metrics_addresss_paths_answer() -> None:
    rows = table("On the metrics address")
    pages = Pages(Metrics(), mode="nftables", started=0, profiling=True)
    for path, row in rows.items():
        status = asyncio.run(pages.answer(Ask(path))).status
        # 406: it wants a PUT.
        assert status == (404 if row.word == "absent" else 406 if "flags" in path else 200), path


# --- metrics --------------------------------------------------------------------------------


def registered() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name -> type and labels, of all metrics that are told, in whatever mode."""
    told: dict[str, tuple[str, tuple[str, ...]]] = {}
    modes = {
        "nftables": None,
        "iptables": Figures(Tally(), dict),
        "ipvs": Figures(Tally()),
        "userspace": None,
    }
    assert tuple(modes) == MODES
    for mode, figures in modes.items():
        relay = Silent() if mode == "userspace" else None
        told |= told_by(
            Metrics(
                mode=mode,
                figures=partial(lambda found: found, figures),
                relay=partial(lambda found: found, relay),
            )
        )
    return told


class Silent:
    """A relay that has carried nothing."""

    processes: ClassVar[list[int]] = []

    async def ask(self, patience: float) -> None:
        pass

    def sums(self) -> Sums:
        return Sums()


def told_by(metrics: Metrics) -> dict[str, tuple[str, tuple[str, ...]]]:
    types = metrics.types()
    assert metrics._registry is not None
    labels: dict[str, tuple[str, ...]] = {}
    for collector in metrics._registry._collector_to_names:
        if name := getattr(collector, "_name", ""):
            labels[name] = tuple(getattr(collector, "_labelnames", ()))
    return {
        name: (kind, labels.get(name, labels.get(name.removesuffix("_total"), ())))
        for name, kind in types.items()
    }


def test_metrics_are_those_of_the_table() -> None:
    told = {name: row for name, row in METRIC_ROWS.items() if row.word != "absent"}
    assert told.keys() == registered().keys()
    for name, (kind, labels) in registered().items():
        _, said_kind, said_labels, *_ = told[name].cells
        assert said_kind == kind, name
        # Collectors of the process itself do not tell their labels.
        if not name.startswith(("process_", "python_")):
            assert said_labels == ", ".join(labels), name


def test_what_is_absent_is_not_told() -> None:
    for name, row in METRIC_ROWS.items():
        if row.word == "absent":
            prefix = name.removesuffix("*")
            assert not [
                one for one in registered() if (one.startswith(prefix) if "*" in name else one == name)
            ]


def test_only_our_own_metrics_are_new() -> None:
    for name, row in METRIC_ROWS.items():
        assert (row.word == "new") == name.startswith(("kubeway_", "python_")), name


def test_slis_are_those_of_the_table() -> None:
    pages = Pages(Metrics(), mode="nftables", started=0)
    body = asyncio.run(pages.answer(Ask("/metrics/slis"))).body
    assert isinstance(body, bytes)
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", body.decode(), flags=re.M))
    rows = table("Metrics", 1)
    assert types == {name: row.cells[1] for name, row in rows.items()}
    for name, row in rows.items():
        (labels,) = re.findall(rf"^{name}(?:\{{(.*)\}})? ", body.decode(), flags=re.M)
        assert ", ".join(re.findall(r"(\w+)=", labels)) == row.cells[2]
