"""Records as lines: one each, in order, for people and for machines."""

from __future__ import annotations

import io
import json
import re
import typing

import msgspec
import pytest

from kubeway import records
from kubeway.records import Level, ManifestRead, ObjectBad, Record, Synced
from kubeway.shell.logs import Log


def test_text_is_time_level_and_words() -> None:
    out = io.StringIO()
    log = Log("text", out=out)
    log.open()
    log.record(ObjectBad("a.yaml", "no name"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z warning a\.yaml: no name\n", out.getvalue())


def test_json_has_the_fields_beside_the_message() -> None:
    out = io.StringIO()
    log = Log("json", out=out)
    log.open()
    log.record(Synced(3, 1, 0.5, 9.0, "drift"))
    line = json.loads(out.getvalue())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", line.pop("time"))
    assert line == {
        "level": "info",
        "record": "Synced",
        "message": "synced after drift: 3 changes (plan 0.5 ms, write 9.0 ms)",
        "changes": 3,
        "services": 1,
        "plan_ms": 0.5,
        "write_ms": 9.0,
        "cause": "drift",
        "full": False,
        "names": [],
        "settle_ms": 0.0,
        "compile_ms": 0.0,
        "link_ms": 0.0,
        "read_ms": 0.0,
        "took_ms": 0.0,
        "lag_ms": 0.0,
    }


@pytest.mark.parametrize(
    ("synced", "line"),
    [
        (Synced(0), "synced after change: 0 changes (plan 0.0 ms, write 0.0 ms)"),
        (
            Synced(
                3,
                7,
                0.6,
                9.0,
                names=("shop/cart", "shop/desk"),
                settle_ms=0.3,
                compile_ms=0.2,
                link_ms=0.1,
                read_ms=4.0,
                lag_ms=12.5,
            ),
            "synced after change: 3 changes for shop/cart, shop/desk and 5 more (read 4.0 ms, settle 0.3 ms, "
            "compile 0.2 ms, link 0.1 ms, plan 0.6 ms, write 9.0 ms), 12.5 ms after the news",
        ),
        (
            Synced(50, 9, 1.0, 2.0, "start", full=True),
            "synced after start: 50 changes for all 9 Services (plan 1.0 ms, write 2.0 ms)",
        ),
        (
            Synced(1, 1, 1.0, 2.0, names=("shop/cart",)),
            "synced after change: 1 changes for shop/cart (plan 1.0 ms, write 2.0 ms)",
        ),
    ],
)
def test_a_sync_is_one_line(synced: Synced, line: str) -> None:
    assert str(synced) == line


def test_a_reader_that_has_gone_does_no_harm() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    log = Log("text", out=Gone())
    log.open()
    log.record(ObjectBad("a.yaml", "no name"))
    closed = io.StringIO()
    log = Log("json", out=closed)
    log.open()
    closed.close()
    log.record(ObjectBad("a.yaml", "no name"))


def test_the_verbosity_can_be_changed() -> None:
    out = io.StringIO()
    log = Log("text", 0, out)
    log.open()
    for verbosity in (0, 4, 0):
        log.set_verbosity(verbosity)
        log.record(ManifestRead("a.yaml", 3))
    assert len(out.getvalue().splitlines()) == 1


def test_lines_are_held_until_it_is_opened() -> None:
    out = io.StringIO()
    log = Log("text", out=out)
    log.record(ObjectBad("a", "first"))
    assert out.getvalue() == ""
    log.open()
    log.record(ObjectBad("a", "second"))
    log.open()
    assert [line.split()[-1] for line in out.getvalue().splitlines()] == ["first", "second"]


@pytest.mark.parametrize(("verbosity", "count"), [(0, 0), (1, 1)])
def test_debug_records_are_for_the_verbose(verbosity: int, count: int) -> None:
    out = io.StringIO()
    log = Log("text", verbosity, out)
    log.open()
    log.record(ManifestRead("a.yaml", 3))
    assert len(out.getvalue().splitlines()) == count


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_name_cannot_forge_a_line(form: typing.Literal["text", "json"]) -> None:
    out = io.StringIO()
    log = Log(form, out=out)
    log.open()
    log.record(ObjectBad("a.yaml", "bad\n2026 info  fine\x1b[2J\u2028\x85"))
    assert out.getvalue().count("\n") == 1
    if form == "text":
        assert out.getvalue().rstrip("\n").isprintable()


def test_a_file_name_that_is_no_text_is_no_harm() -> None:
    for form in ("text", "json"):
        file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
        log = Log(form, out=file)  # as stderr is
        log.open()
        log.record(ObjectBad(b"\xff.yaml".decode("utf-8", "surrogateescape"), "no name"))
        file.seek(0)
        assert "\\udcff.yaml" in file.read()


def kinds() -> list[type[Record]]:
    return [kind for kind in vars(records).values() if isinstance(kind, type) and issubclass(kind, Record)]


@pytest.mark.parametrize(
    "kind", [kind for kind in kinds() if kind is not Record], ids=lambda kind: kind.__name__
)
def test_every_record_says_itself_in_both_forms(kind: type[Record]) -> None:
    samples: dict[object, object] = {str: "x", int: 1, float: 1.5, bool: False, tuple[str, ...]: ("x",)}
    types = typing.get_type_hints(kind)
    values = {
        field.name: samples.get(types[field.name]) or typing.get_args(types[field.name])[0]
        if types[field.name] is not bool
        else False
        for field in msgspec.structs.fields(kind)
    }
    record = kind(**values)
    assert record.level in typing.get_args(Level)
    assert str(record)
    assert "\n" not in str(record)
    for form in ("text", "json"):
        out = io.StringIO()
        log = Log(form, 1, out)
        log.open()
        log.record(record)
        assert out.getvalue().count("\n") == 1
