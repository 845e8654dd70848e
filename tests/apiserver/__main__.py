"""
The API server of the tests as a process: `python -m tests.apiserver --port N --manifests DIR`.

It says `serving URL` when it does, then each fault it injects, and ends on SIGTERM. On
SIGUSR1 it is away, on SIGUSR2 back again, and says so. The directory is looked at all the
time: its files are the cluster.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from random import Random

from tests.apiserver.directory import Directory
from tests.apiserver.faults import Faults
from tests.apiserver.server import ApiServer

LOOK_EVERY = 0.02
"""Seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.apiserver")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free; it is told")
    parser.add_argument("--manifests", type=Path, required=True, help="a directory")
    parser.add_argument("--token", default="", help="let nobody in without it")
    parser.add_argument("--faults", metavar="SEED", type=int, help="inject faults, by this seed")
    parser.add_argument("--share", type=float, default=0.1, help="how many of the requests fail")
    parser.add_argument("--fail", metavar="FAULT@PATH", action="append", default=[], help="plan a fault")
    parser.add_argument("--old", action="store_true", help="refuse WatchList, and page every list")
    asyncio.run(serve(parser.parse_args()))


async def serve(flags: argparse.Namespace) -> None:
    faults = Told(Random(flags.faults), 0.0 if flags.faults is None else flags.share)
    for plan in flags.fail:
        name, _, where = plan.partition("@")
        faults.fail_next(name, where=where)
    server = ApiServer(
        host=flags.host,
        port=flags.port,
        faults=faults,
        tokens=[flags.token] if flags.token else [],
        watchlist=not flags.old,
        cached=not flags.old,
    )
    told: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        asyncio.get_running_loop().add_signal_handler(number, told.put_nowait, number)
    directory = Directory(flags.manifests, server)
    directory.look()
    async with server:
        print(f"serving {server.url}", flush=True)
        while True:
            directory.look()
            with suppress(TimeoutError):
                match await asyncio.wait_for(told.get(), LOOK_EVERY):
                    case signal.SIGUSR1:
                        await server.pause()
                        print("away", flush=True)
                    case signal.SIGUSR2:
                        await server.resume()
                        print("back", flush=True)
                    case _:
                        return


class Told(Faults):
    """Faults that say themselves on stdout."""

    def _count(self, name: str) -> str:
        print(f"fault {name}", flush=True)
        return super()._count(name)


if __name__ == "__main__":
    main()
