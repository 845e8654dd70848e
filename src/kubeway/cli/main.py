"""
kubeway's commands. Each asks and prints; what it asks is computed below.

Exit codes: 0 all is well; 1 it could not be done, and one line on stderr says why;
2 the command line itself cannot be read; 3 `trace` found the program and the model
to differ. Modules are imported by the command that needs them, so help and the
daemon's start do not wait for those they do without.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from kubeway.cli import flags
from kubeway.errors import KubewayError

app = typer.Typer(
    name="kubeway",
    help="A Kubernetes service proxy: Services in, kernel rules out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> int:
    """The console script."""
    try:
        app()
    except KubewayError as error:
        from kubeway.shell.logs import one_line

        print(f"kubeway: {one_line(str(error))}", file=sys.stderr)
        return 1
    return 0


@app.command()
def run(
    manifests: flags.Manifests,
    hostname_override: Annotated[
        str,
        flags.flag("--hostname-override", metavar="NAME", help="This node's name; by default the host's."),
    ] = "",
    cluster_cidr: flags.ClusterCidr = "",
    proxy_mode: flags.ProxyMode = "nftables",
    healthz_bind_address: Annotated[
        str,
        flags.flag(
            "--healthz-bind-address", metavar="IP:PORT", help="Where /healthz, /livez and /readyz answer."
        ),
    ] = "0.0.0.0:10256",
    detect_local_mode: flags.DetectLocalMode = "ClusterCIDR",
    pod_bridge_interface: flags.PodBridgeInterface = "",
    pod_interface_name_prefix: flags.PodInterfaceNamePrefix = "",
    nodeport_addresses: flags.NodeportAddresses = [],  # noqa: B006 (typer copies it)
    masquerade_all: flags.MasqueradeAll = False,
    masquerade_bit: flags.MasqueradeBit = 14,
    min_sync_period: Annotated[
        str,
        flags.flag(
            "--min-sync-period",
            metavar="DURATION",
            help="The least time between syncs, such as 500ms; by default as often as syncs are cheap.",
        ),
    ] = "",
    logging_format: Annotated[
        str, flags.flag("--logging-format", metavar="FORMAT", help="text or json.")
    ] = "text",
    verbosity: Annotated[
        str, flags.flag("-v", "--v", metavar="N", help="1 and more: debug records too.")
    ] = "0",
) -> None:
    """Keep this node's kernel as the manifests say, until told to stop. Needs CAP_NET_ADMIN."""
    from kubeway.cli.run import run as go
    from kubeway.shell import options

    settled = options.model_options(
        hostname=options.this_node(hostname_override),
        proxy_mode=proxy_mode,
        cluster_cidr=cluster_cidr,
        detect_local_mode=detect_local_mode,
        pod_bridge_interface=pod_bridge_interface,
        pod_interface_name_prefix=pod_interface_name_prefix,
        nodeport_addresses=nodeport_addresses,
        masquerade_all=masquerade_all,
        masquerade_bit=masquerade_bit,
    )
    config = options.Config(
        manifests=tuple(manifests),
        options=settled,
        healthz=options.healthz_address(healthz_bind_address),
        logging_format=options.logging_format(logging_format),
        verbosity=options.verbosity(verbosity),
        min_sync_period=options.duration("--min-sync-period", min_sync_period) if min_sync_period else None,
    )
    raise typer.Exit(go(config))


@app.command()
def compile(  # noqa: A001 (the command's name)
    manifests: flags.Manifests,
    node: flags.Node = "",
    family: Annotated[str, flags.flag("--family", metavar="FAMILY", help="ip or ip6; by default both.")] = "",
    output: Annotated[str, flags.flag("-o", "--output", metavar="FORMAT", help="text or json.")] = "text",
    cluster_cidr: flags.ClusterCidr = "",
    proxy_mode: flags.ProxyMode = "nftables",
    detect_local_mode: flags.DetectLocalMode = "ClusterCIDR",
    pod_bridge_interface: flags.PodBridgeInterface = "",
    pod_interface_name_prefix: flags.PodInterfaceNamePrefix = "",
    nodeport_addresses: flags.NodeportAddresses = [],  # noqa: B006 (typer copies it)
    masquerade_all: flags.MasqueradeAll = False,
    masquerade_bit: flags.MasqueradeBit = 14,
) -> None:
    """Print the program a node would hold: as `nft -f` reads it, or as JSON. Needs no kernel."""
    from kubeway.cli.compile import compile as go
    from kubeway.shell import options

    settled = options.model_options(
        proxy_mode=proxy_mode,
        cluster_cidr=cluster_cidr,
        detect_local_mode=detect_local_mode,
        pod_bridge_interface=pod_bridge_interface,
        pod_interface_name_prefix=pod_interface_name_prefix,
        nodeport_addresses=nodeport_addresses,
        masquerade_all=masquerade_all,
        masquerade_bit=masquerade_bit,
    )
    go(manifests, settled, options.node_name("--node", node), family, output)


@app.command()
def trace(
    src: Annotated[str, typer.Argument(metavar="SRC", help="The client's address.")],
    target: Annotated[
        str,
        typer.Argument(metavar="DST:PORT/PROTO", help="10.96.0.10:53/UDP, [fd00::10]:80; TCP if not said."),
    ],
    manifests: flags.Manifests,
    iif: Annotated[
        str,
        flags.flag(
            "--iif", metavar="NAME", help="The interface it comes in by, if the node does not make it itself."
        ),
    ] = "eth0",
    remembered: Annotated[
        str,
        flags.flag(
            "--remembered",
            metavar="IP:PORT",
            help="The endpoint this client had before, for session affinity.",
        ),
    ] = "",
    node: flags.Node = "",
    cluster_cidr: flags.ClusterCidr = "",
    proxy_mode: flags.ProxyMode = "nftables",
    detect_local_mode: flags.DetectLocalMode = "ClusterCIDR",
    pod_bridge_interface: flags.PodBridgeInterface = "",
    pod_interface_name_prefix: flags.PodInterfaceNamePrefix = "",
    nodeport_addresses: flags.NodeportAddresses = [],  # noqa: B006 (typer copies it)
    masquerade_all: flags.MasqueradeAll = False,
    masquerade_bit: flags.MasqueradeBit = 14,
) -> None:
    """Tell where the first packet of a flow goes, why, and with what chance. Needs no kernel."""
    from kubeway.cli.trace import trace as go
    from kubeway.shell import options

    settled = options.model_options(
        proxy_mode=proxy_mode,
        cluster_cidr=cluster_cidr,
        detect_local_mode=detect_local_mode,
        pod_bridge_interface=pod_bridge_interface,
        pod_interface_name_prefix=pod_interface_name_prefix,
        nodeport_addresses=nodeport_addresses,
        masquerade_all=masquerade_all,
        masquerade_bit=masquerade_bit,
    )
    raise typer.Exit(go(src, target, iif, remembered, manifests, settled, options.node_name("--node", node)))


@app.command()
def cleanup() -> None:
    """Take all of kubeway's rules out of the kernel. Needs CAP_NET_ADMIN."""
    from kubeway.cli.cleanup import cleanup as go

    go()


@app.command()
def demo() -> None:
    """Show a small cluster at work, in network namespaces of its own."""
    from kubeway.cli.demo import demo as go

    raise typer.Exit(go())


@app.command()
def version() -> None:
    """Print the version."""
    import kubeway

    typer.echo(f"kubeway {kubeway.__version__}")


if __name__ == "__main__":
    sys.exit(main())
