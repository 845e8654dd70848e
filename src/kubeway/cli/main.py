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
        app(flags.spelled_out(sys.argv[1:]))
    except KubewayError as error:
        from kubeway.shell.logs import one_line

        print(f"kubeway: {one_line(str(error))}", file=sys.stderr)
        return 1
    return 0


@app.command()
@flags.with_flags(flags.DAEMON)
def run(given: dict[str, list[str]]) -> None:
    """Keep this node's kernel as the cluster says, until told to stop. Needs CAP_NET_ADMIN.

    Objects come from an API server (--kubeconfig, --master, or the Pod this runs in) or from
    --manifests. The flags are kube-proxy's, but for --manifests, --masquerade-bit and --kubeway-*.
    """
    from kubeway.cli.run import start

    raise typer.Exit(start(given))


@app.command()
@flags.with_flags(flags.PROGRAM)
def compile(  # noqa: A001 (the command's name)
    manifests: flags.Manifests,
    given: dict[str, list[str]],
    node: flags.Node = "",
    family: Annotated[str, flags.flag("--family", metavar="FAMILY", help="ip or ip6; by default both.")] = "",
    output: Annotated[str, flags.flag("-o", "--output", metavar="FORMAT", help="text or json.")] = "text",
) -> None:
    """Print the program a node would hold: as `nft -f` or `iptables-restore` reads it, or as JSON.

    Needs no kernel.
    """
    from kubeway.cli.compile import compile as go
    from kubeway.cli.offline import program_options
    from kubeway.shell.asked import node_name

    go(manifests, program_options(given), node_name("--node", node), family, output)


@app.command()
@flags.with_flags(flags.PROGRAM)
def trace(
    src: Annotated[str, typer.Argument(metavar="SRC", help="The client's address.")],
    target: Annotated[
        str,
        typer.Argument(metavar="DST:PORT/PROTO", help="10.96.0.10:53/UDP, [fd00::10]:80; TCP if not said."),
    ],
    manifests: flags.Manifests,
    given: dict[str, list[str]],
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
) -> None:
    """Tell where the first packet of a flow goes, why, and with what chance. Needs no kernel."""
    from kubeway.cli.offline import program_options
    from kubeway.cli.trace import trace as go
    from kubeway.shell.asked import node_name

    settled = program_options(given)
    raise typer.Exit(go(src, target, iif, remembered, manifests, settled, node_name("--node", node)))


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
