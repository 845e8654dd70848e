"""
The flags that several commands share: their names, and what help says of them.

They are only spelled here; `shell.options` checks them. Nothing heavy is imported,
so that `kubeway COMMAND --help` answers at once.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer


def flag(*names: str, metavar: str | None = None, help: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, show_default=True)


Manifests = Annotated[
    list[str],
    flag(
        "--manifests",
        metavar="PATH",
        help="File or directory (*.yaml, *.yml, *.json) of Kubernetes objects; repeatable.",
    ),
]
ClusterCidr = Annotated[
    str,
    flag("--cluster-cidr", metavar="CIDR[,CIDR]", help="Addresses of Pods: one CIDR, or one of each family."),
]
ProxyMode = Annotated[str, flag("--proxy-mode", metavar="MODE", help="How packets are led: nftables.")]
DetectLocalMode = Annotated[
    str,
    flag(
        "--detect-local-mode",
        metavar="MODE",
        help="How a Pod's packet is told: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix.",
    ),
]
PodBridgeInterface = Annotated[
    str, flag("--pod-bridge-interface", metavar="NAME", help="The bridge of Pods, for BridgeInterface.")
]
PodInterfaceNamePrefix = Annotated[
    str,
    flag(
        "--pod-interface-name-prefix",
        metavar="PREFIX",
        help="What names of Pods' interfaces begin with, for InterfaceNamePrefix.",
    ),
]
NodeportAddresses = Annotated[
    list[str],
    flag(
        "--nodeport-addresses",
        metavar="CIDRS",
        help="Which addresses of the node accept node ports: CIDRs, or 'primary' for the Node's own, "
        "which is the default.",
    ),
]
MasqueradeAll = Annotated[
    bool, flag("--masquerade-all", help="Masquerade everything that is sent to ClusterIPs.")
]
MasqueradeBit = Annotated[
    int,
    flag("--masquerade-bit", metavar="BIT", help="The bit of the packet mark that asks for masquerading."),
]
Node = Annotated[
    str,
    flag(
        "--node",
        "--node-name",
        metavar="NAME",
        help="The node to be; by default the only one in the manifests.",
    ),
]
