"""
This node, as far as Services depend on it.

`NodeFacts` is what was found out, `Options` is what was asked for, and `NodeView`
is what follows from both for packets: the part of every mode's input that is the
same for all service ports.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from kubeway.model.addresses import is_link_local, is_loopback
from kubeway.model.links import Links, Neighbours
from kubeway.model.schedulers import DEFAULT
from kubeway.values import SCTP, Ip, Prefix, Proto

Steering = Literal["auto", "nft", "xtables"]
"""What leads packets to the relay; auto: nft where it is there."""

DetectLocalMode = Literal["ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"]


class Ipvs(Struct, frozen=True, kw_only=True):
    """What was asked of ipvs mode. Timeouts are whole seconds, 0 to leave the kernel's."""

    scheduler: str = DEFAULT
    strict_arp: bool = False
    tcp_timeout: int = 0
    tcp_fin_timeout: int = 0
    udp_timeout: int = 0
    # Virtual servers at these addresses are others'.
    exclude: tuple[Prefix, ...] = ()
    # The kernel (4.1 to 5.8) is to be told to let connections reuse ports (net.ipv4.vs.conn_reuse_mode).
    reuse_ports: bool = False


class Options(Struct, frozen=True, kw_only=True):
    """What the user asked for; the defaults are kube-proxy's for nftables mode."""

    hostname: str = ""
    mode: str = "nftables"
    cluster_cidrs: tuple[Prefix, ...] = ()
    detect_local: DetectLocalMode = "ClusterCIDR"
    bridge_interface: str = ""
    interface_prefix: str = ""
    masquerade_all: bool = False
    masquerade_bit: int = 14
    # CIDRs whose local addresses accept node ports; () accepts all of them.
    node_port_addresses: tuple[Prefix, ...] | Literal["primary"] = "primary"
    localhost_node_ports: bool = True  # in iptables mode, where the CIDRs hold loopback
    drop_invalid: bool = True  # in iptables mode: packets that connection tracking takes for part of no flow
    accounting: bool = False  # the kernel has nfacct, to count in what is dropped and let in
    external_ips: bool = True  # gate AllowServiceExternalIPs
    ipvs: Ipvs = Ipvs()
    steering: Steering = "auto"  # in userspace mode
    relay_workers: int = 0  # in userspace mode: processes that carry connections; 0: as suits the machine
    node_ip: Ip | None = None  # bindAddress, where it is one: this node's, whatever its Node object says


class NodeFacts(Struct, frozen=True, kw_only=True):
    """What is known of this node.

    `ips` holds at most one address of a family, the primary family first;
    `addresses` are all addresses of its interfaces, loopback included. `links`: asked for in userspace mode
    only.
    """

    name: str
    ips: tuple[Ip, ...] = ()
    zone: str = ""
    pod_cidrs: tuple[Prefix, ...] = ()
    addresses: frozenset[Ip] = frozenset()
    links: Links = Links()
    labels: dict[str, str] = field(default_factory=dict)


class Detector(Struct, frozen=True):
    """How a packet from a pod of this cluster is told from others.

    cidr: its source is in `prefix`. interface: it came in by `interface`.
    interface-prefix: it came in by an interface whose name begins with `interface`.
    """

    kind: Literal["cidr", "interface", "interface-prefix"]
    prefix: Prefix | None = None
    interface: str = ""

    def is_local(self, src: bytes, iif: str) -> bool:
        if self.prefix is not None:
            return self.prefix.holds(src)
        if self.kind == "interface":
            return iif == self.interface
        return iif.startswith(self.interface)


class FamilyView(Struct, frozen=True):
    """What this node settles for one family.

    `detector` None: pods cannot be told from others. `node_ports` None: every
    local address but loopback accepts node ports; else just these. `loopback`: so
    does all of 127.0.0.0/8, which then is closed to everything else that does not
    come from there. `service_cidrs`: addresses that only Services may have.
    `addresses`: this node's. `large`: it has more endpoints than the mode says every
    little thing of. `source`: the address that this node is known by, if it is on an interface.
    Of userspace mode: `served` says whether the relay can be had for this family at all; `neighbours` who
    of it would answer each other past this node; `marks_checked` that marks count where senders are checked.
    """

    family: int
    detector: Detector | None = None
    node_ports: tuple[Ip, ...] | None = None
    loopback: bool = False
    service_cidrs: tuple[Prefix, ...] = ()
    addresses: frozenset[Ip] = frozenset()
    large: bool = False
    source: Ip | None = None
    served: bool = True
    neighbours: tuple[Neighbours, ...] = ()
    marks_checked: bool = False

    @property
    def accepting(self) -> tuple[Ip, ...]:
        """The addresses that accept node ports where each has to be named, in order.

        If all do, not those of loopback, and not link-local ones: there is one for each pod's link.
        """
        if self.node_ports is not None:
            return self.node_ports
        return tuple(sorted(ip for ip in self.addresses if not (is_loopback(ip) or is_link_local(ip))))


class NodeView(Struct, frozen=True):
    """What this node settles for every service port.

    `drop_invalid`: packets of no flow are not forwarded (of iptables mode). `accounting`:
    the kernel can count what rules do, in counters with names. `ipvs`: Services' addresses
    are this node's own (of ipvs mode), so what is sent to them ends here; and how ipvs is set.
    `relayed`: flows to Services end here, and the node makes others to the endpoints (of userspace mode),
    by so many `relay_workers`.
    `bridged`: where packets come by a bridge, they pass prerouting there first (of userspace mode).
    """

    v4: FamilyView
    v6: FamilyView
    masquerade_all: bool = False
    mark: int = 0x4000
    drop_invalid: bool = True
    accounting: bool = False
    ipvs: Ipvs | None = None
    relayed: bool = False
    relay_workers: int = 1
    bridged: bool = False

    @property
    def shape(self) -> tuple[object, ...]:
        """What of it a mode's fragments may depend on; its base may depend on everything."""
        families = [(f.detector, f.large, f.served, f.neighbours) for f in (self.v4, self.v6)]
        common = self.masquerade_all, self.mark, *families
        if self.ipvs is None:
            return common
        # Here an address is not only asked for, it is part of what is there.
        own = [(one.accepting, one.source) for one in (self.v4, self.v6)]
        return *common, self.ipvs, *own

    def speaks(self, proto: Proto) -> bool:
        """Whether ways in of this protocol can be served here: the relay knows no SCTP."""
        return not self.relayed or proto != SCTP

    def family(self, family: int) -> FamilyView:
        return self.v4 if family == 4 else self.v6
