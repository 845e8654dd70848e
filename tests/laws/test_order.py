"""
Make before break: whatever part of a plan has been carried out, a packet ends where it would have before, or
where it will after.

ipvs mode's planes are not atomic, so a plan is seen half done: between its steps, and within one after each
change, in the order in which the plane makes them. Two things are let pass, and both only refuse:

- A server comes before its first destination and goes after its last; the kernel answers for it meanwhile.
- A way in that becomes one of another kind, or gets another policy outside, is in the sets of both for a
  moment, so that a client may be hidden or refused as neither would. To make such a change exact would take a
  set more for each kind, and it is a person's, once.

Nobody is let in meanwhile who is let in neither before nor after, be it to an endpoint or to this node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st
from msgspec.structs import replace

from kubeway.model.packet import DROP, REJECT, Fate, Packet
from kubeway.modes.ipvs import IPVS, sets
from kubeway.planes.ipset.lower import lower as ipset_lower
from kubeway.planes.ipset.objects import entry_key
from kubeway.planes.ipset.ours import name_for
from kubeway.planes.ipvs.lower import STILL, arrange
from kubeway.planes.ipvs.objects import server_key
from kubeway.planes.link.lower import lower as link_lower
from kubeway.program.plan import apply, diff, steps
from kubeway.program.program import Change, Key, Object, Step
from kubeway.shell.dialects import lawful
from kubeway.values import family_of
from tests.laws.test_fates import program
from tests.worlds import Doc, World, packets, services, worlds

Objects = Mapping[Key, Object]


def moments(a: Objects, b: Objects) -> Iterator[tuple[str, Objects]]:
    """What the kernel holds on the way from `a` to `b`, after each thing that it does at once."""
    objects = dict(a)
    for step in steps(lawful(list(diff(a, b)), b), IPVS.planes):
        for changes in at_once(step, b):
            objects = apply(changes, objects)
            yield ", ".join(f"{c.verb} {c.key.kind} {c.key.name}" for c in changes), objects
    assert objects == b


def at_once(step: Step, wanted: Objects) -> Iterator[Sequence[Change]]:
    """The changes of a step as the plane makes them: those that it makes at once, together."""
    match step.plane:
        case "xtables":
            yield step.changes
        case "ipset":
            for parcel in ipset_lower(step.changes):
                yield from ([change] for change in parcel.changes)
        case "ipvs":
            told, leaving = arrange(step.changes, (), wanted)
            for change in told:
                within = [c for c in step.changes if c.verb == "del" and c.key.name[:3] == change.key.name]
                yield within if change.verb == "del" and change.key.kind == "server" else [change]
            yield from ([Change("del", key, STILL, None)] for key in leaving)
        case "link":
            made = dict.fromkeys(id(parcel.change) for parcel in link_lower(step.changes, 1))
            assert len(made) == len(step.changes)
            yield from ([change] for change in step.changes)
        case _:
            yield from ([change] for change in step.changes)


# --- a world that becomes another one ---------------------------------------------------------------


@st.composite
def later(draw: st.DrawFn, world: World) -> World:
    """The same cluster after a few changes."""
    docs = deepcopy(list(world.docs))
    for _ in range(draw(st.integers(1, 2))):
        docs = draw(st.sampled_from([_endpoints, _policy, _sources, _service, _ways]))(draw, docs)
    return World(tuple(docs), world.options, world.node, world.addresses)


def _of_kind(docs: Sequence[Doc], kind: str) -> list[Doc]:
    return [doc for doc in docs if doc["kind"] == kind]


def _endpoints(draw: st.DrawFn, docs: list[Doc]) -> list[Doc]:
    """One less, one as it was in another slice, none at all, or all that there are leave."""
    slices = _of_kind(docs, "EndpointSlice")
    for one in [draw(st.sampled_from(slices))] if slices else []:
        held: list[Doc] = one["endpoints"]
        what = draw(st.sampled_from(["less", "more", "none", "leaving"]))
        if what == "less":
            del held[draw(st.integers(0, len(held))) :]
        elif what == "more":
            held += [
                e
                for other in slices
                if other["addressType"] == one["addressType"]
                for e in other["endpoints"]
            ]
            held[:] = {e["addresses"][0]: e for e in held}.values()
        elif what == "none":
            held.clear()
        for endpoint in held if what == "leaving" else []:
            endpoint["conditions"] = {"ready": False, "serving": True, "terminating": True}
    return docs


def _policy(draw: st.DrawFn, docs: list[Doc]) -> list[Doc]:
    for doc in _some_service(draw, docs):
        which = draw(st.sampled_from(["internalTrafficPolicy", "externalTrafficPolicy"]))
        doc["spec"][which] = {"Local": "Cluster"}.get(doc["spec"].get(which, ""), "Local")
    return docs


def _sources(draw: st.DrawFn, docs: list[Doc]) -> list[Doc]:
    for doc in _some_service(draw, docs):
        was = doc["spec"].get("loadBalancerSourceRanges")
        ranges = ["203.0.113.0/24", "10.244.0.0/16", "2001:db8:1::/64", "fd00:10:244::/48"]
        doc["spec"]["loadBalancerSourceRanges"] = draw(
            st.sampled_from(
                [[], ranges, [ranges[0]], ["198.18.0.0/15"], (was or [])[:1], [*(was or []), ranges[1]]]
            )
        )
    return docs


def _service(draw: st.DrawFn, docs: list[Doc]) -> list[Doc]:
    """One comes, goes, or is another under its name."""
    metadata = [doc["metadata"] for doc in _some_service(draw, docs)]
    names = ["shop/a", "shop/d", *(f"{one['namespace']}/{one['name']}" for one in metadata)]
    name = draw(st.sampled_from(names))
    kept = [doc for doc in docs if not _belongs(doc, *name.split("/"))]
    return [*kept, *(draw(services(name)) if draw(st.booleans()) else [])]


def _belongs(doc: Doc, namespace: str, name: str) -> bool:
    metadata = doc["metadata"]
    owner = metadata.get("labels", {}).get("kubernetes.io/service-name", metadata["name"])
    return doc["kind"] in ("Service", "EndpointSlice") and (metadata.get("namespace"), owner) == (
        namespace,
        name,
    )


def _ways(draw: st.DrawFn, docs: list[Doc]) -> list[Doc]:
    """One way in more or less, or at another port."""
    for doc in _some_service(draw, docs):
        spec: dict[str, Any] = doc["spec"]
        what = draw(st.sampled_from(["type", "port", "external", "ingress", "affinity"]))
        port = draw(st.sampled_from(spec["ports"]))
        if what == "type":
            spec["type"] = {"ClusterIP": "NodePort", "NodePort": "LoadBalancer"}.get(
                spec["type"], "ClusterIP"
            )
            if spec["type"] == "ClusterIP":
                for each in spec["ports"]:
                    each.pop("nodePort", None)
            else:
                port["nodePort"] = 30080
        elif what == "port":
            port["port"] = draw(st.sampled_from([80, 443, 53, 9999]))
        elif what == "external":
            spec["externalIPs"] = (
                [] if spec.get("externalIPs") else ["198.51.100.1", "203.0.113.10", "2001:db8:99::1"]
            )
        elif what == "ingress":
            there = doc.pop("status", None)
            if not there:
                doc["status"] = {"loadBalancer": {"ingress": [{"ip": "198.51.100.2", "ipMode": "VIP"}]}}
        else:
            spec["sessionAffinity"] = {"ClientIP": "None"}.get(spec.get("sessionAffinity", ""), "ClientIP")
            spec.pop("sessionAffinityConfig", None)
    return docs


def _some_service(draw: st.DrawFn, docs: Sequence[Doc]) -> list[Doc]:
    found = _of_kind(docs, "Service")
    return [draw(st.sampled_from(found))] if found else []


# --- the law --------------------------------------------------------------------------------------------


class Between:
    """What may become of one packet on the way from program `a` to `b`."""

    def __init__(self, before: World, after: World, a: Objects, b: Objects, sent: Packet) -> None:
        self.view, self.sent = after.view, sent
        # A client whose endpoint is gone chooses among those that are still there.
        meanings = [(one, each) for one in (a, b) for each in (sent, replace(sent, remembered=None))]
        self.ends = {fate for one, each in meanings for fate in IPVS.fates(one, self.view, each)}
        self.comes_or_goes = (self._server in a) is not (self._server in b)
        self.served = {(fate.ip, fate.port) for fate in self.ends if fate.ip is not None}
        if self.served:  # and by the list of the other policy meanwhile
            self.served |= {key.name[3:] for key in (*a, *b) if key.kind == "destination" and self._of(key)}
        was, will_be = ({name for name in _KINDS if self._is_in(name, one)} for one in (a, b))
        self.turns = bool(was and will_be and was != will_be)

    @property
    def _server(self) -> Key:
        return server_key(self.sent.dst, self.sent.proto, self.sent.port)

    def _of(self, key: Key) -> bool:
        return bool(key.name[:3] == self._server.name)

    def _is_in(self, name: str, objects: Objects) -> bool:
        full = name_for(name, family_of(self.sent.dst))
        way = self.sent.dst, self.sent.proto, self.sent.port
        return entry_key(full, *way) in objects or entry_key(full, self.sent.port) in objects

    def wrong(self, objects: Objects) -> set[Fate]:
        """Where it can end now, and may not."""
        ends = set(self.ends)
        if self.comes_or_goes or self.turns:
            ends.add(REJECT)
        if self.turns:
            ends.add(DROP)
            ends |= {Fate("endpoint", *whom, hidden) for whom in self.served for hidden in (True, False)}
        return IPVS.fates(objects, self.view, self.sent).keys() - ends


_KINDS = (
    sets.CLUSTER_IP,
    sets.EXTERNAL_IP,
    sets.EXTERNAL_IP_LOCAL,
    sets.LOAD_BALANCER,
    sets.LOAD_BALANCER_LOCAL,
    *sets.NODE_PORT_LOCAL.values(),
    *sets.NODE_PORT.values(),
)


@given(worlds(most=2), st.data())
def test_half_way_a_packet_ends_as_before_or_as_after(some: World, data: st.DataObject) -> None:
    before = some.in_mode("ipvs")
    after = data.draw(later(before))
    a, b = program(before, IPVS), program(after, IPVS)
    way = list(moments(a, b))
    event("no change" if not way else "some changes")
    # Whoever is sent on to an address that is a way in may be balanced again, so has two fates (docs/theory);
    # and who comes from one is this node while it is bound.
    ways = {key.name[0] for one in (a, b) for key in one if key.plane == "ipvs" and key.kind == "server"}
    for _ in range(4):
        sent: Packet = data.draw(packets(data.draw(st.sampled_from([before, after]))))
        between = Between(before, after, a, b, sent)
        if sent.src in ways or any(fate.ip in ways for fate in between.ends):
            continue
        for done, objects in way:
            assert not [fate for fate in between.wrong(objects) if fate.ip not in ways], done
        if between.turns:
            event("turns")
        elif between.comes_or_goes:
            event("comes or goes")
        elif len(between.ends) > 1:
            event("between several ends")


LET_IN = ("endpoint", "pass")


@given(worlds(most=2), st.data())
def test_nobody_is_let_in_half_way_who_never_is_else(some: World, data: st.DataObject) -> None:
    """Without exception: source ranges, closed ports, and policies that drop."""
    before = some.in_mode("ipvs")
    after = data.draw(later(before))
    a, b = program(before, IPVS), program(after, IPVS)
    way = list(moments(a, b))
    for _ in range(4):
        sent: Packet = data.draw(packets(data.draw(st.sampled_from([before, after]))))
        ends = {*IPVS.fates(a, after.view, sent), *IPVS.fates(b, after.view, sent)}
        if any(fate.verdict in LET_IN for fate in ends):
            continue
        event(" ".join(sorted({fate.verdict for fate in ends})))
        for done, objects in way:
            now = IPVS.fates(objects, after.view, sent)
            assert not [fate for fate in now if fate.verdict in LET_IN], done
