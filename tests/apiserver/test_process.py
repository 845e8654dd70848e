"""The API server as a process: a directory's files are the cluster."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.apiserver.client import Client
from tests.apiserver.directory import Directory
from tests.apiserver.server import ApiServer

ROOT = Path(__file__).parents[2]


def node(name: str, **labels: str) -> dict[str, Any]:
    return {"kind": "Node", "metadata": {"name": name, "labels": labels}}


def replace(path: Path, *docs: Any) -> None:
    draft = path.with_name(f".{path.name}")
    draft.write_text("\n---\n".join(json.dumps(doc) for doc in docs))
    draft.replace(path)


def nodes(api: ApiServer) -> dict[str, dict[str, str]]:
    return {name: doc["metadata"]["labels"] for (_, _, name), doc in api.state().items()}


def test_files_are_the_cluster(tmp_path: Path) -> None:
    api = ApiServer()
    directory = Directory(tmp_path, api)
    directory.look()
    replace(tmp_path / "a.yaml", node("one"), {"kind": "NodeList", "items": [node("two")]})
    replace(tmp_path / "b.json", [node("three"), {"kind": "Deployment", "metadata": {"name": "no"}}])
    replace(tmp_path / "c.txt", node("four"))
    directory.look()
    assert nodes(api) == {"one": {}, "two": {}, "three": {}}
    rv = api.rv
    directory.look()
    assert api.rv == rv
    replace(tmp_path / "a.yaml", node("one", zone="a"))
    replace(tmp_path / "b.json", node("three"), node("one", zone="b"))
    directory.look()
    assert nodes(api) == {"one": {"zone": "b"}, "three": {}}, "of two files the last path counts"
    (tmp_path / "b.json").unlink()
    (tmp_path / "a.yaml").write_text("{")
    directory.look()
    assert nodes(api) == {"one": {"zone": "a"}}, "what cannot be read keeps its last good content"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    replace(tmp_path / "one.json", node("one"))
    words = ["--manifests", str(tmp_path), "--token", "secret", "--faults", "1", "--share", "0.5"]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.apiserver", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_the_process(server: subprocess.Popen[str], tmp_path: Path) -> None:
    assert server.stdout is not None
    word, url = server.stdout.readline().split()
    assert word == "serving"

    async def story() -> None:
        async with Client(url, headers={"Authorization": "Bearer secret"}) as client:
            replace(tmp_path / "two.json", node("two"))
            async with asyncio.timeout(30):
                while await names(client) != ["one", "two"]:  # noqa: ASYNC110 (files tell no event)
                    await asyncio.sleep(0.01)

            assert [await names(client) for _ in range(20)].count(["one", "two"]) < 20, "no fault in twenty"

    asyncio.run(story())
    for number, said in ((signal.SIGUSR1, "away"), (signal.SIGUSR2, "back")):
        server.send_signal(number)
        while (line := server.stdout.readline()) != f"{said}\n":
            assert line.startswith("fault ")
    asyncio.run(story())
    server.send_signal(signal.SIGTERM)
    rest = server.stdout.read().split()
    assert server.wait(30) == 0
    assert set(rest[::2]) == {"fault"}


async def names(client: Client) -> list[str]:
    try:
        reply = await client.listed("nodes")
    except aiohttp.ClientError:
        return []
    return [name for _, name in reply.names] if reply.status == 200 else []
