"""Manifests on a real disk: written, replaced, swung over, spoilt, taken away."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType

import pytest

from kubeway.errors import BadInput
from kubeway.model.store import Store
from kubeway.records import (
    ManifestBad,
    ManifestGone,
    ManifestRead,
    ObjectBad,
    ObjectTwice,
    Record,
    WatchFailed,
)
from kubeway.shell.manifests import Manifests, follow


def service(name: str, port: int = 80) -> str:
    spec = {"clusterIP": "10.96.0.9", "ports": [{"port": port}]}
    return json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})


class Shelf:
    """Manifests of some paths, with the store they fill and what they reported."""

    def __init__(self, *paths: Path) -> None:
        self.store = Store()
        self.records: list[Record] = []
        self.manifests = Manifests([str(path) for path in paths], self.store, self.records.append)

    def names(self) -> dict[str, int]:
        """The Services there are, with their first ports (0: it has none)."""
        services = self.store.snapshot().services.values()
        return {service.name.name: service.ports[0].port if service.ports else 0 for service in services}

    def told(self, *kinds: type[Record]) -> list[str]:
        found = [str(record) for record in self.records if isinstance(record, kinds or (Record,))]
        self.records.clear()
        return found


def replace(path: Path, text: str) -> None:
    """As careful writers do: at no time is there half a file."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    fresh.rename(path)


# --- what is read -------------------------------------------------------------------


def test_a_directory_s_manifests_are_read_and_no_other_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("a"))
    (tmp_path / "b.yml").write_text(service("b"))
    (tmp_path / "c.json").write_text(service("c"))
    (tmp_path / "d.txt").write_text(service("d"))
    (tmp_path / ".e.yaml").write_text(service("e"))
    (tmp_path / "f.yaml").mkdir()
    (tmp_path / "f.yaml" / "g.yaml").write_text(service("g"))
    shelf = Shelf(tmp_path)
    assert shelf.manifests.load()
    assert shelf.names() == {"a": 80, "b": 80, "c": 80}
    assert not shelf.manifests.load(), "nothing changed since"


def test_a_file_is_read_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text(service("a"))
    shelf = Shelf(tmp_path / "objects")
    shelf.manifests.load()
    assert shelf.names() == {"a": 80}


def test_a_path_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"^--manifests: {tmp_path}/none: no such file or directory$"):
        Shelf(tmp_path / "none")


def test_a_path_given_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("a"))
    shelf = Shelf(tmp_path, tmp_path / "a.yaml", tmp_path / "." / "a.yaml")
    shelf.manifests.load()
    assert shelf.told(ObjectTwice) == []


# --- what changes -------------------------------------------------------------------


def test_a_file_written_replaced_and_deleted(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    assert not shelf.manifests.load()
    path = tmp_path / "a.yaml"
    path.write_text(service("a"))
    assert shelf.manifests.load()
    replace(path, service("a", 81) + "\n---\n" + service("b"))
    assert shelf.manifests.load()
    assert shelf.names() == {"a": 81, "b": 80}
    shelf.told()
    path.unlink()
    assert shelf.manifests.load()
    assert shelf.names() == {}
    assert shelf.told() == [f"{path}: gone, and its 2 objects with it"]


def test_a_spoilt_file_keeps_its_last_good_content(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(service("a"))
    (tmp_path / "b.yaml").write_text(service("b"))
    shelf = Shelf(tmp_path)
    shelf.manifests.load()
    shelf.told()
    replace(path, "kind: [Service\nmetadata: {")
    replace(tmp_path / "b.yaml", service("b", 81))
    assert shelf.manifests.load()
    assert shelf.names() == {"a": 80, "b": 81}, "the one stays, the others go on"
    (line,) = shelf.told(ManifestBad)
    assert line.startswith(f"{path}:2:")
    assert line.endswith("; its last good content (1 objects) stays in force")
    assert not shelf.manifests.load()
    assert shelf.told() == [], "told once"
    replace(path, service("a", 82))
    assert shelf.manifests.load()
    assert shelf.names() == {"a": 82, "b": 81}


def test_a_file_spoilt_from_the_start_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("]")
    (tmp_path / "b.yaml").write_text(service("b"))
    shelf = Shelf(tmp_path)
    shelf.manifests.load()
    assert shelf.names() == {"b": 80}
    (line,) = shelf.told(ManifestBad)
    assert line.startswith(f"{tmp_path}/a.yaml:1:")


def test_a_bad_object_is_told_once_and_the_rest_of_its_file_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(service("a") + "\n---\n" + service("b", 70000))
    shelf = Shelf(tmp_path)
    shelf.manifests.load()
    assert shelf.names()["a"] == 80
    (line,) = shelf.told(ObjectBad)
    assert str(path) in line
    assert "default/b" in line
    replace(path, service("a", 81) + "\n---\n" + service("b", 70000))
    shelf.manifests.load()
    assert shelf.told(ObjectBad) == []


def test_a_directory_that_cannot_be_listed_keeps_its_content(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    (mount / "a.yaml").write_text(service("a"))
    shelf = Shelf(mount)
    shelf.manifests.load()
    shelf.told()
    mount.rename(tmp_path / "away")
    assert not shelf.manifests.load()
    assert not shelf.manifests.load()
    assert shelf.told() == [
        f"{mount}: No such file or directory; its last good content (1 objects) stays in force"
    ]
    (tmp_path / "away").rename(mount)
    (mount / "a.yaml").unlink()
    assert shelf.manifests.load()
    assert shelf.told(ManifestGone)


def test_a_file_that_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(service("a"))
    shelf = Shelf(path)
    shelf.manifests.load()
    path.unlink()
    assert shelf.manifests.load()
    assert not shelf.manifests.load()
    path.write_text(service("a", 81))
    assert shelf.manifests.load()
    assert shelf.names() == {"a": 81}
    assert shelf.told(ManifestBad) == []


def test_an_object_in_two_files_is_told_and_passed_on(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("x", 1))
    (tmp_path / "b.yaml").write_text(service("x", 2))
    shelf = Shelf(tmp_path)
    shelf.manifests.load()
    assert shelf.names() == {"x": 1}
    assert shelf.told(ObjectTwice) == [
        f"{tmp_path}/b.yaml: Service default/x is in {tmp_path}/a.yaml too; taken from {tmp_path}/a.yaml"
    ]
    (tmp_path / "a.yaml").unlink()
    shelf.manifests.load()
    assert shelf.names() == {"x": 2}


# --- following ------------------------------------------------------------------------


class Following:
    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.changes = 0

    def changed(self) -> None:
        self.changes += 1

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not reached():  # noqa: ASYNC110 (files tell no event)
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def following(shelf: Shelf) -> AsyncIterator[Following]:
    shelf.manifests.load()
    following = Following(shelf)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follow(shelf.manifests, following.changed, shelf.records.append))
        yield following
        task.cancel()


def test_changes_are_followed(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "a.yaml"
        path.write_text(service("a"))
        async with following(Shelf(tmp_path)) as told:
            replace(path, service("a", 81))
            await told.until(lambda: told.shelf.names() == {"a": 81})
            path.write_text(service("a", 82))
            await told.until(lambda: told.shelf.names() == {"a": 82})
            (tmp_path / "b.json").write_text(service("b"))
            await told.until(lambda: told.shelf.names() == {"a": 82, "b": 80})
            path.unlink()
            await told.until(lambda: told.shelf.names() == {"b": 80})
            assert told.changes >= 4

    asyncio.run(run())


def test_a_config_map_s_swing_is_followed(tmp_path: Path) -> None:
    """kubelet's AtomicWriter: name -> ..data/name, ..data -> ..<time>, and ..data is renamed over."""

    def version(number: int, text: str) -> None:
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "a.yaml").write_text(text)
        (tmp_path / "..tmp").symlink_to(f"..{number}")
        (tmp_path / "..tmp").rename(tmp_path / "..data")

    async def run() -> None:
        version(1, service("a"))
        (tmp_path / "a.yaml").symlink_to(Path("..data") / "a.yaml")
        async with following(Shelf(tmp_path)) as told:
            assert told.shelf.names() == {"a": 80}
            for number in (2, 3):
                version(number, service("a", 80 + number))
                old = tmp_path / f"..{number - 1}"
                (old / "a.yaml").unlink()
                old.rmdir()
                await told.until(lambda n=number: told.shelf.names() == {"a": 80 + n})
            assert told.shelf.told(ManifestGone, ObjectTwice, ManifestBad) == []

    asyncio.run(run())


def test_the_file_behind_a_symlink_is_followed(tmp_path: Path) -> None:
    async def run() -> None:
        (tmp_path / "there").mkdir()
        (tmp_path / "here").mkdir()
        target = tmp_path / "there" / "real.yaml"
        target.write_text(service("a"))
        link = tmp_path / "here" / "link.yaml"
        link.symlink_to(target)
        async with following(Shelf(link)) as told:
            target.write_text(service("a", 81))
            await told.until(lambda: told.shelf.names() == {"a": 81})

    asyncio.run(run())


def test_a_directory_put_in_place_of_another_is_followed(tmp_path: Path) -> None:
    async def run() -> None:
        mount = tmp_path / "mount"
        mount.mkdir()
        (mount / "a.yaml").write_text(service("a"))
        async with following(Shelf(mount)) as told:
            mount.rename(tmp_path / "away")
            mount.mkdir()
            (mount / "b.yaml").write_text(service("b"))
            await told.until(lambda: told.shelf.names() == {"b": 80})
            (mount / "b.yaml").write_text(service("b", 81))
            await told.until(lambda: told.shelf.names() == {"b": 81})

    asyncio.run(run())


def test_without_watches_files_are_polled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Exhausted(ModuleType):
        WatchfilesRustInternalError = RuntimeError

        @staticmethod
        def RustNotify(*_: object) -> None:  # noqa: N802 (its name there)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setitem(sys.modules, "watchfiles._rust_notify", Exhausted("watchfiles._rust_notify"))
    monkeypatch.setattr("kubeway.shell.manifests._POLL_EVERY", 0.01)

    async def run() -> None:
        async with following(Shelf(tmp_path)) as told:
            await told.until(lambda: bool(told.shelf.records))
            (tmp_path / "a.yaml").write_text(service("a"))
            await told.until(lambda: told.shelf.names() == {"a": 80})
            (line,) = told.shelf.told(WatchFailed)
            assert "No space left on device" in line

    asyncio.run(run())


def test_a_big_file_is_read_beside_the_loop(tmp_path: Path) -> None:
    async def run() -> None:
        async with following(Shelf(tmp_path)) as told:
            items = ",".join(service(f"s{number}") for number in range(2500))
            replace(tmp_path / "a.json", f'{{"kind": "List", "items": [{items}]}}')
            await told.until(lambda: len(told.shelf.names()) == 2500)
            (record,) = [record for record in told.shelf.records if isinstance(record, ManifestRead)]
            assert record.objects == 2500

    asyncio.run(run())


def test_a_change_is_seen_whatever_the_file_says_of_its_age(tmp_path: Path) -> None:
    """cp -p and rsync -t give a new content the old time of modification."""
    path = tmp_path / "shop.json"
    path.write_text(service("cart", 80))
    shelf = Shelf(tmp_path)
    shelf.manifests.load()
    age = path.stat()
    path.write_text(service("cart", 81))
    os.utime(path, ns=(age.st_atime_ns, age.st_mtime_ns))
    assert path.stat().st_size == age.st_size
    assert shelf.manifests.load()
    assert shelf.names() == {"cart": 81}


def test_what_was_never_read_is_known(tmp_path: Path) -> None:
    path = tmp_path / "shop.json"
    path.write_text("{")
    shelf = Shelf(tmp_path)
    shelf.manifests.load()
    assert shelf.manifests.unread == [str(path)]
    path.write_text(service("cart"))
    shelf.manifests.load()
    assert shelf.manifests.unread == []
    path.write_text("{")
    shelf.manifests.load()
    assert shelf.manifests.unread == []  # its last good content is in force
