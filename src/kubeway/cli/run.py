"""
`kubeway run`: the daemon.
"""

from __future__ import annotations

import asyncio
import os
import sys

from kubeway.shell import daemon
from kubeway.shell.options import Config
from kubeway.shell.privilege import need_net_admin


def run(config: Config) -> int:
    """Until SIGTERM or SIGINT; the exit code."""
    need_net_admin()
    return asyncio.run(_run(config))


async def _run(config: Config) -> int:
    code = await daemon.run(config)
    # Not by `return`: a thread may be parsing a big manifest, and the loop would wait for
    # its end. A write to the kernel is one system call, done or not done.
    sys.stderr.flush()
    os._exit(code)
