"""
The daemon, and what its flags ask for instead: to write the configuration, to clean up, to prepare.
"""

from __future__ import annotations

import asyncio
import os
import sys

from kubeway.model.config_flags import BY_NAME
from kubeway.shell import configfile, options
from kubeway.shell.asked import Asked, Given, settle
from kubeway.shell.options import Config
from kubeway.shell.privilege import need_net_admin


def start(given: Given) -> int:
    """Do what the flags ask for, in kube-proxy's order; the exit code. A KubewayError says why not."""
    for name in given:
        if old := BY_NAME[name].old:
            print(f"Flag --{name} has been deprecated, {old}", file=sys.stderr)
    asked = settle(given)
    if path := asked.given.get("write-config-to"):
        configfile.write(asked.configuration, path)
        return 0
    if asked.given.get("cleanup"):
        from kubeway.cli.cleanup import cleanup_all

        cleanup_all()
        return 0
    if asked.given.get("init-only"):
        return prepare(asked)
    return run(options.config(asked))


def run(config: Config) -> int:
    """Until SIGTERM or SIGINT; the exit code."""
    need_net_admin()
    return asyncio.run(_run(config))


def prepare(asked: Asked) -> int:
    """What needs more than CAP_NET_ADMIN, so that the daemon needs no more than that afterwards.

    kube-proxy asks the API server for the Node before; nothing here depends on one, so nothing waits.
    """
    from kubeway.shell.conntrack import Conntrack
    from kubeway.shell.logs import Log
    from kubeway.shell.nft import NftPlane
    from kubeway.shell.sysctls import set_conntrack

    need_net_admin()
    wanted = options.model_options(asked.configuration)
    if wanted.mode == "nftables":
        plane = NftPlane()
        try:
            plane.generation()  # is there an nf_tables to speak to?
        finally:
            plane.close()
    Conntrack().close()  # loads nf_conntrack, which has the settings
    logging = asked.configuration.logging
    log = Log("json" if logging.format == "json" else "text", logging.verbosity)
    set_conntrack(options.conntrack(asked), log.record)
    if wanted.mode == "iptables":
        from kubeway.shell import loopback

        asyncio.run(loopback.prepare(wanted, asked.configuration.kubeway.iptables_backend, log.record))
    if wanted.mode == "ipvs":
        from kubeway.shell import ipvs_settings
        from kubeway.shell.outfit import able

        ipvs_settings.prepare(able(wanted).ipvs, log.record)
    log.open()
    return 0


async def _run(config: Config) -> int:
    from kubeway.shell import daemon

    code = await daemon.run(config)
    # Not by `return`: a thread may be parsing a big manifest, and the loop would wait for
    # its end. A write to the kernel is one system call, done or not done.
    sys.stderr.flush()
    os._exit(code)
