"""
The meaning of a Service, executable: where a packet must end, whatever the mode.

The oracle reads Forwards and the node's view, and no program. Every mode is
tested against it, with exact chances. It is written to be read: one function per
question, in the order in which a packet meets them.

    1  source ranges        a client that is not let in is dropped, before all else
    2  the way in           the address and port of a Service; failing that, a node port
    3  the list that applies, and whether the client's address is hidden from it
    4  an endpoint          remembered, or drawn; or nobody: drop or reject
    5  what is left         a cluster IP's unowned port, an unallocated cluster IP

Where node ports are open on loopback, its addresses stay closed otherwise: a packet
to them from elsewhere that is sent to no endpoint is dropped, before 4 says nobody.

Where a packet passes decides whether 4 and 5 can act: one made here passes OUTPUT
and, if it is sent to an address of this node, comes back in by INPUT; one from
elsewhere passes INPUT or FORWARD. Node ports without endpoints answer in INPUT
only; unowned ports and unallocated cluster IPs in FORWARD and OUTPUT only.

In userspace mode the node makes a flow of its own to the endpoint, so whose address is seen is its choice
everywhere. SCTP it does not speak; and of a family that it cannot hand to itself it takes nothing. Where it
would reject for want of endpoints, a Service may ask it to hold connections instead: they are let in, and
rejected when nobody has come in time. Who is held has met its fate, wherever it is sent.

In ipvs mode the addresses of Services are this node's own: what is sent to a port of theirs that is no
way in is rejected, whoever else may have that address, and an endpoint with such an address is this node.

A Service's address holds its port even where nobody serves it: no node port of
the same number steps in. A packet that has been sent to an endpoint has met its
fate; an endpoint that is itself some Service's address is not followed further.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from msgspec import Struct

from kubeway.model.addresses import is_link_local, is_loopback
from kubeway.model.balances import BALANCES
from kubeway.model.forward import Endpoint, Forward, Frontend
from kubeway.model.links import among
from kubeway.model.node import FamilyView, NodeView
from kubeway.model.packet import DROP, PASS, REJECT, Fate, Fates, Packet
from kubeway.values import PROTO_NAMES, TCP, Ip, Prefix, family_of, show_addr, show_ip


class _Way(Struct, frozen=True):
    """A way in and the service port it leads to."""

    frontend: Frontend
    forward: Forward


class Oracle:
    """Knows all Forwards of a node. Raises ValueError if two of them hold one way in."""

    def __init__(self, forwards: Iterable[Forward], view: NodeView) -> None:
        self.view = view
        self._addresses: dict[tuple[Ip, int, int], _Way] = {}
        self._node_ports: dict[tuple[int, int, int], _Way] = {}
        self._cluster_ips: dict[Ip, Forward] = {}
        self._bound: dict[Ip, Forward] = {}
        self._health: set[tuple[int, int]] = set()
        for forward in forwards:
            self._health.add((forward.family, forward.health_port))
            for frontend in forward.frontends:
                self._add(_Way(frontend, forward))

    def _add(self, way: _Way) -> None:
        forward, ip, port = way.forward, way.frontend.ip, way.frontend.port
        if ip is None:
            held = self._node_ports.setdefault((forward.family, forward.proto, port), way)
        else:
            held = self._addresses.setdefault((ip, forward.proto, port), way)
            if way.frontend.kind == "ClusterIP":
                self._cluster_ips.setdefault(ip, forward)
            if self.view.ipvs is not None and ip not in self.view.family(forward.family).addresses:
                self._bound.setdefault(ip, forward)
        if held is not way:
            raise ValueError(
                f"{held.forward.name.label} and {forward.name.label} hold one way in, port {port}"
            )

    def fates(self, packet: Packet, trail: list[str] | None = None) -> Fates:
        """Every end this packet can come to, each with its chance.

        `trail` gets one sentence per decision, with its reason.
        """
        if family_of(packet.src) != family_of(packet.dst):
            raise ValueError("source and destination of a packet are of one family")
        return _Passage(self, packet, trail if trail is not None else []).fates()

    def address(self, packet: Packet) -> _Way | None:
        return self._addresses.get((packet.dst, packet.proto, packet.port))

    def node_port(self, packet: Packet) -> _Way | None:
        return self._node_ports.get((family_of(packet.dst), packet.proto, packet.port))

    def owner(self, ip: Ip) -> Forward | None:
        """Some service port whose cluster IP this is."""
        return self._cluster_ips.get(ip)

    def bound(self, ip: Ip) -> Forward | None:
        """Some service port for which this node has taken the address, so that it leads here."""
        return self._bound.get(ip)

    def asks_for_health(self, packet: Packet) -> bool:
        """It goes to a health-check node port, at whatever address."""
        return packet.proto == TCP and (family_of(packet.dst), packet.port) in self._health


class _Passage:
    """One packet on its way through this node."""

    def __init__(self, oracle: Oracle, packet: Packet, trail: list[str]) -> None:
        self.oracle = oracle
        self.packet = packet
        self.view: FamilyView = oracle.view.family(family_of(packet.dst))
        self.tell = trail.append

    # --- where it is from and where it goes ----------------------------------------------------------

    @property
    def made_here(self) -> bool:
        return not self.packet.iif

    @property
    def to_this_node(self) -> bool:
        return self._own(self.packet.dst)

    @property
    def from_this_node(self) -> bool:
        return self._here(self.packet.src)

    def _own(self, ip: Ip) -> bool:
        return ip in self.view.addresses or is_loopback(ip)

    def _here(self, ip: Ip) -> bool:
        """Where it leads to, and be it for a Service's sake, is this node."""
        return self._own(ip) or self.oracle.bound(ip) is not None

    def _from_pod(self) -> bool:
        """Seen as a pod of this cluster; False where nothing tells pods from others."""
        detector = self.view.detector
        return detector is not None and detector.is_local(self.packet.src, self.packet.iif)

    def _accepts_node_ports(self) -> bool:
        dst = self.packet.dst
        if is_loopback(dst):
            return self.view.loopback
        if dst not in self.view.addresses:
            return False
        if self.view.node_ports is not None:
            return dst in self.view.node_ports
        return self.oracle.view.ipvs is None or not is_link_local(dst)

    # --- the decisions, in order ----------------------------------------------------------------------

    def fates(self) -> Fates:
        if not self.view.served:
            self.tell(f"this node relays nothing of IPv{self.view.family}: passed on as it is")
            return {PASS: Fraction(1)}
        way = self._way()
        if way is not None and not self._let_in(way):
            return {DROP: Fraction(1)}
        if way is not None and self._spoken(way):
            endpoints, masquerade = self._list(way)
            if endpoints:
                return self._sent(way, endpoints, masquerade)
            if self._held(way):
                return {REJECT: Fraction(1)}
        if self._martian():
            return {DROP: Fraction(1)}
        fate = self._left_over() if way is None else self._nobody(way)
        if fate == PASS:
            self.tell("passed on as it is")
        return {fate: Fraction(1)}

    def _way(self) -> _Way | None:
        packet = self.packet
        target = f"{show_addr(packet.dst, packet.port)}/{PROTO_NAMES.get(packet.proto, packet.proto)}"
        way = self.oracle.address(packet)
        if way is not None:
            self.tell(f"{target} is the {way.frontend.kind} of {way.forward.name}")
            return way
        way = self.oracle.node_port(packet)
        if way is None:
            self.tell(f"{target} is no way in of any Service")
        elif self._accepts_node_ports():
            self.tell(f"{target} is a node port of {way.forward.name}")
            return way
        else:
            where = "accepts no node ports" if self.to_this_node else "is no address of this node"
            self.tell(f"{show_ip(packet.dst)} {where}, so {packet.port} is not {way.forward.name} there")
        return None

    def _let_in(self, way: _Way) -> bool:
        sources = way.frontend.sources
        if sources is None:
            return True
        match = _holding(sources, self.packet.src)
        src = show_ip(self.packet.src)
        if match is None:
            self.tell(f"the client {src} is in none of its loadBalancerSourceRanges: dropped")
            return False
        self.tell(f"the client {src} is in its loadBalancerSourceRanges, in {match}")
        return True

    def _list(self, way: _Way) -> tuple[tuple[Endpoint, ...], bool]:
        """The endpoints for this client, and whether the client's address is to be hidden from them."""
        if way.frontend.kind == "ClusterIP":
            return self._internal(way.forward)
        return self._external(way.forward)

    def _internal(self, forward: Forward) -> tuple[tuple[Endpoint, ...], bool]:
        if forward.internal_local:
            self.tell("internalTrafficPolicy Local: only endpoints on this node")
        return (forward.local if forward.internal_local else forward.cluster), self._hides_internal()

    def _hides_internal(self) -> bool:
        src = show_ip(self.packet.src)
        if self.oracle.view.masquerade_all:
            self.tell("masquerade-all: masqueraded")
            return True
        if self.view.detector is None:
            self.tell("nothing tells pods of this cluster from others: not masqueraded")
            return False
        if self._from_pod():
            self.tell(f"the client {src} is a pod of this cluster: not masqueraded")
            return False
        self.tell(f"the client {src} is no pod of this cluster: masqueraded")
        return True

    def _external(self, forward: Forward) -> tuple[tuple[Endpoint, ...], bool]:
        src = show_ip(self.packet.src)
        if not forward.external_local:
            self.tell("externalTrafficPolicy Cluster: all endpoints, masqueraded")
            return forward.cluster, True
        if self._from_pod():
            self.tell(f"externalTrafficPolicy Local, but {src} is a pod of this cluster: all endpoints")
            return forward.cluster, False
        if self.from_this_node:
            self.tell(f"externalTrafficPolicy Local, but {src} is this node: all endpoints, masqueraded")
            return forward.cluster, True
        self.tell("externalTrafficPolicy Local: only endpoints on this node, client address kept")
        return forward.local, False

    def _spoken(self, way: _Way) -> bool:
        """If not, the relay does not speak the Service's protocol, and nobody is served."""
        return self.oracle.view.speaks(way.forward.proto)

    def _held(self, way: _Way) -> bool:
        """The relay takes the connection although there is nobody to serve it, as somebody may come.

        A packet is not told what will be, so its fate is what becomes of it if nobody comes.
        """
        seconds = way.forward.hold
        if not (self.oracle.view.relayed and seconds) or way.forward.usable:
            return False
        self.tell(f"no endpoint can serve: it waits for one, {seconds} s at most, and is rejected then")
        return True

    def _sent(self, way: _Way, endpoints: tuple[Endpoint, ...], masquerade: bool) -> Fates:
        remembered = self._remembered(way.forward, endpoints)
        choice = endpoints if remembered is None else (remembered,)
        if remembered is None:
            how = f", {BALANCES[way.forward.balance]}" if self.oracle.view.relayed else ""
            self.tell(
                f"one of {len(endpoints)} endpoints, each alike{how}"
                if len(endpoints) > 1
                else "one endpoint"
            )
        fates: dict[Fate, Fraction] = {}
        for endpoint in choice:
            hidden = self._hidden(endpoint, masquerade)
            fate = Fate("endpoint", endpoint.ip, endpoint.port, hidden)
            fates[fate] = fates.get(fate, Fraction(0)) + Fraction(1, len(choice))
        return fates

    def _hidden(self, endpoint: Endpoint, masquerade: bool) -> bool:
        """Whether this endpoint will see this node's address in place of the client's."""
        target = show_addr(endpoint.ip, endpoint.port)
        if self.oracle.view.relayed:
            # The node makes a flow of its own to whomever it is, be it for itself.
            if endpoint.ip == self.packet.src and not masquerade:
                self.tell(f"{target} is the client itself: the node speaks to it as itself")
            near = self._near(endpoint)
            if near and not masquerade:
                self.tell(f"{target} would answer past this node, on the client's own bridge: hidden")
            return masquerade or near or endpoint.ip == self.packet.src
        if self._here(endpoint.ip) and not self.made_here:
            # What comes in from outside and ends here does not pass POSTROUTING, where masquerading is done.
            if masquerade:
                self.tell(f"{target} is this node itself, which sees the client's own address")
            return False
        if endpoint.local and endpoint.ip == self.packet.src and not masquerade:
            self.tell(f"{target} is the client itself: masqueraded, or it would answer itself directly")
            return True
        return masquerade

    def _near(self, endpoint: Endpoint) -> bool:
        """Whether client and endpoint reach each other without this node."""
        neighbours = among(self.view.neighbours, endpoint.ip)
        return neighbours is not None and neighbours.holds(self.packet.src)

    def _remembered(self, forward: Forward, endpoints: tuple[Endpoint, ...]) -> Endpoint | None:
        if not forward.affinity or self.packet.remembered is None:
            return None
        ip, port = self.packet.remembered
        found = next((e for e in endpoints if e.ip == ip and e.port == port), None)
        last = show_addr(ip, port)
        if found is None:
            self.tell(f"ClientIP affinity: {last}, where it was sent last, serves it no more")
        else:
            self.tell(f"ClientIP affinity: it stays with {last}")
        return found

    def _martian(self) -> bool:
        """Sent to loopback from elsewhere: a kernel that opens it for node ports lets everything in."""
        packet = self.packet
        if not self.view.loopback or not is_loopback(packet.dst) or is_loopback(packet.src):
            return False
        self.tell(f"{show_ip(packet.dst)} is loopback, which {show_ip(packet.src)} is not: dropped")
        return True

    def _nobody(self, way: _Way) -> Fate:
        """There is a way in, but nobody to send to."""
        if way.frontend.ip is None and self.made_here:
            # It meets OUTPUT, where node ports are not known, before it comes in by INPUT.
            unowned = self._left_over()
            if unowned != PASS:
                return unowned
        if not self._spoken(way):
            self.tell("this proxy relays no SCTP: rejected")
            return REJECT
        if way.forward.usable:
            self.tell("no endpoint on this node, but elsewhere there are: dropped")
            return DROP
        self.tell("no endpoint can serve: rejected")
        return REJECT

    def _left_over(self) -> Fate:
        """No way in. What is sent to Services' addresses goes nowhere, unless it is for this node alone."""
        if self.to_this_node and not self.made_here:
            self.tell(f"{show_ip(self.packet.dst)} is an address of this node")
            return PASS
        dst = self.packet.dst
        holder = self.oracle.bound(dst)
        if holder is not None and self.oracle.asks_for_health(self.packet):
            self.tell(f"{show_ip(dst)} is here for {holder.name}, and so are health-check node ports")
            return PASS
        if holder is not None:
            self.tell(f"{show_ip(dst)} is here for {holder.name} alone, which has no such port: rejected")
            return REJECT
        owner = self.oracle.owner(dst)
        if owner is not None:
            self.tell(f"{show_ip(dst)} is the cluster IP of {owner.name}, which has no such port: rejected")
            return REJECT
        cidr = _holding(self.view.service_cidrs, dst)
        if cidr is not None:
            self.tell(f"{show_ip(dst)} is in the service CIDR {cidr}, but no Service has it: dropped")
            return DROP
        return PASS


def _holding(prefixes: Iterable[Prefix], ip: Ip) -> Prefix | None:
    return next((prefix for prefix in prefixes if prefix.holds(ip)), None)
