"""The configuration file: read, written, and noticed when it is another one, however that came about."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kubeway.errors import BadInput
from kubeway.model.configuration import Configuration, only_in_use, put
from kubeway.shell import configfile
from kubeway.shell.configfile import ConfigFile, until_changed

KUBEADM = Path(__file__).parent.parent / "data" / "kubeadm-config.conf"
TEXT = "kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1alpha1\nmode: nftables\n"
OTHER = TEXT + "oomScoreAdj: 7\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.conf"
    path.write_text(TEXT)
    return path


# --- reading and writing ----------------------------------------------------------------------


def test_what_kubeadm_writes_is_read() -> None:
    read = configfile.read(str(KUBEADM))
    assert (read.twice, read.decoded.unknown) == ((), ())
    assert read.file == ConfigFile(str(KUBEADM), KUBEADM.read_bytes())


def test_json_is_read_too(file: Path) -> None:
    file.write_text(
        '{"kind": "KubeProxyConfiguration", "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "mode": "ipvs"}'
    )
    assert configfile.read(str(file)).decoded.configuration.mode == "ipvs"


def test_what_is_written_is_read_again_and_sorted(tmp_path: Path) -> None:
    path = tmp_path / "written"
    wanted = put(put(Configuration(), "mode", "nftables"), "hostnameOverride", "1:30")
    configfile.write(wanted, str(path))
    assert configfile.read(str(path)).decoded.configuration == only_in_use(wanted)
    names = [line.partition(":")[0] for line in path.read_text().splitlines() if line[0].isalpha()]
    assert names == sorted(names)
    assert names[0] == "apiVersion"


def test_fields_given_twice_are_named(file: Path) -> None:
    file.write_text(
        TEXT + "mode: ipvs\nipvs: {scheduler: a, strictARP: true, scheduler: b}\n"
        "logging: {vmodule: [{filePattern: a}, {filePattern: b, filePattern: c}]}\n"
    )
    read = configfile.read(str(file))
    assert read.twice == ("mode", "ipvs.scheduler", "logging.vmodule.filePattern")
    assert read.decoded.configuration.ipvs.scheduler == "b"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "--config: FILE: 0 documents; one KubeProxyConfiguration is needed"),
        (f"{TEXT}---\n{TEXT}", "--config: FILE: 2 documents; one KubeProxyConfiguration is needed"),
        ("bindAddress: ::\n", "FILE:1:15: mapping values are not allowed in this context"),
        (
            TEXT + "kubeway: {x: 1}",
            "FILE: kubeway.x: no such setting; there are minSyncGap, driftRepair, traceFile, "
            "iptablesBackend, ipvsDrain, steering, relayWorkers, relayDrain, relayHalfClosed",
        ),
        (TEXT + "oomScoreAdj: x", "FILE: oomScoreAdj: Expected `int`, got `str`"),
        (
            "- x",
            "FILE: not a mapping; a KubeProxyConfiguration of kubeproxy.config.k8s.io/v1alpha1 is needed",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(file: Path, text: str, problem: str) -> None:
    file.write_text(text)
    with pytest.raises(BadInput) as error:
        configfile.read(str(file))
    assert str(error.value) == problem.replace("FILE", str(file))


def test_no_file_and_no_directory_to_write_to(tmp_path: Path) -> None:
    gone = tmp_path / "no" / "file"
    with pytest.raises(BadInput) as error:
        configfile.read(str(gone))
    assert str(error.value) == f"--config: {gone}: No such file or directory"
    with pytest.raises(BadInput) as error:
        configfile.write(Configuration(), str(gone))
    assert str(error.value) == f"--write-config-to: {gone}: No such file or directory"


def test_what_is_far_too_big_is_no_configuration(file: Path) -> None:
    file.write_bytes(b"#" * (5 << 20))
    with pytest.raises(BadInput, match="over 4 MiB; that is no configuration"):
        configfile.read(str(file))


# --- watching ---------------------------------------------------------------------------------


def watched(path: Path, change: Callable[[], None]) -> str:
    """What is said after the change. Watching began before it, and had looked at least once."""

    async def watch(seen: ConfigFile) -> str:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            watching = group.create_task(until_changed(seen, every=0.01))
            await asyncio.sleep(0)
            change()
        return watching.result()

    return asyncio.run(watch(ConfigFile(str(path), path.read_bytes())))


def in_place(path: Path) -> None:
    path.write_text(OTHER)


def same_size_in_place(path: Path) -> None:
    path.write_text(TEXT.replace("nftables", "iptables"))


def appended(path: Path) -> None:
    with path.open("a") as file:
        file.write("oomScoreAdj: 7\n")


def renamed_over(path: Path) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(OTHER)
    fresh.rename(path)


def removed_and_made_again(path: Path) -> None:
    path.unlink()
    path.write_text(OTHER)


@pytest.mark.parametrize(
    "change", [in_place, same_size_in_place, appended, renamed_over, removed_and_made_again]
)
def test_every_kind_of_replacement_is_noticed(file: Path, change: Callable[[Path], None]) -> None:
    said = watched(file, lambda: change(file))
    assert said == f"the configuration file {file} changed; start again to go by it"


def test_a_configmap_swings_over(tmp_path: Path) -> None:
    """As kubelet does: config.conf -> ..data/config.conf, ..data -> ..2026_1, and then ..2026_2."""
    for name, text in (("..2026_1", TEXT), ("..2026_2", OTHER)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.conf").write_text(text)
    (tmp_path / "..data").symlink_to("..2026_1")
    file = tmp_path / "config.conf"
    file.symlink_to("..data/config.conf")

    def swing() -> None:
        (tmp_path / "..data_tmp").symlink_to("..2026_2")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    assert watched(file, swing).endswith("changed; start again to go by it")


@pytest.mark.parametrize("how", ["unlink", "rename"])
def test_a_file_that_is_gone_is_noticed(file: Path, how: str) -> None:
    away = file.with_suffix(".away")
    said = watched(file, file.unlink if how == "unlink" else lambda: file.rename(away))
    assert said == f"the configuration file {file} is gone; start again to go by what is there"


@pytest.mark.parametrize(
    "how", ["touch", "chmod", "the same again", "the same renamed over", "gone a moment"]
)
def test_what_is_no_change_is_none(file: Path, how: str) -> None:
    content = file.read_bytes()
    at = {
        20: lambda: _no_change(file, how),
        21: lambda: file.exists() or file.write_bytes(content),
        # It was looking all the time: a change is noticed still.
        200: lambda: file.write_text(OTHER),
    }

    async def watch() -> str:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            watching = group.create_task(until_changed(ConfigFile(str(file), content), every=0))
            for turn in range(201):
                assert not watching.done()
                at.get(turn, lambda: None)()
                await asyncio.sleep(0)
        return watching.result()

    assert "changed" in asyncio.run(watch())


def _no_change(file: Path, how: str) -> None:
    if how == "touch":
        os.utime(file, (1, 1))
    elif how == "chmod":
        file.chmod(0o600)
    elif how == "the same again":
        file.write_text(TEXT)
    elif how == "the same renamed over":
        fresh = file.with_suffix(".new")
        fresh.write_text(TEXT)
        fresh.rename(file)
    else:
        file.unlink()
