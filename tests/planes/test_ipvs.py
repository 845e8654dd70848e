"""Virtual servers: what is told the kernel, what they are called, and their laws."""

from __future__ import annotations

from errno import EEXIST, EINVAL, ENOENT, ESRCH

import pytest
from hypothesis import given

from kubeway.model.schedulers import SCHEDULERS
from kubeway.planes.ipvs import laws
from kubeway.planes.ipvs.describe import describe
from kubeway.planes.ipvs.lower import STILL, arrange, instead, is_done
from kubeway.planes.ipvs.objects import (
    FALLING_BACK,
    KINDS,
    PLANE,
    TIMEOUTS,
    Destination,
    Server,
    Timeouts,
    destination_key,
    server_key,
)
from kubeway.planes.ipvs.text import family_of, show
from kubeway.planes.memory import MemoryPlane
from kubeway.program.plan import diff, steps
from kubeway.program.program import Change, Key, Object
from kubeway.shell import dialects
from kubeway.values import TCP, UDP
from tests.planes.ipvsprograms import (
    DNS,
    PHRASES,
    POD,
    VIP,
    WEB,
    WEB6_POD,
    WEB_POD,
    every_construct,
    programs,
)

DNS_POD = destination_key(VIP, UDP, 53, POD, 53)


def gone(key: Key, old: Object = None) -> Change:
    return Change("del", key, old, None)


def added(key: Key, new: Object) -> Change:
    return Change("add", key, None, new)


# --- what the kernel is told ------------------------------------------------------------------


def test_a_destination_that_goes_is_made_still_first() -> None:
    told = arrange([gone(WEB_POD, Destination())], {}, {WEB: Server("sh")})
    assert told.changes == [Change("set", WEB_POD, Destination(), STILL)]
    assert told.leaving == [WEB_POD]


def test_one_of_udp_goes_at_once() -> None:
    assert arrange([gone(DNS_POD)], {}, {DNS: Server("rr")}) == ([gone(DNS_POD)], [])


def test_one_goes_at_once_where_the_scheduler_would_refuse_its_clients() -> None:
    """dh sends all clients of a virtual address to one destination, be its weight 0 or not."""
    assert arrange([gone(WEB_POD)], {}, {WEB: Server("dh")}) == ([gone(WEB_POD)], [])


def test_one_that_comes_back_while_it_drains_is_there_still() -> None:
    assert arrange([added(WEB_POD, Destination(3))], {WEB_POD}, {}).changes == [
        Change("set", WEB_POD, STILL, Destination(3))
    ]
    assert arrange([added(WEB_POD, Destination(3))], {}, {}).changes == [added(WEB_POD, Destination(3))]


def test_with_a_server_its_destinations_go() -> None:
    stays = destination_key(VIP, TCP, 81, POD, 8080)
    told = arrange([gone(WEB_POD), gone(stays), gone(DNS_POD), gone(WEB), gone(DNS)], {}, {})
    assert [c.key for c in told.changes] == [WEB, DNS, stays]
    assert told.leaving == [stays]


def test_nobody_stops_before_there_are_others() -> None:
    """While all have weight 0, clients are refused."""
    others = [destination_key(VIP, TCP, 80, POD, port) for port in (8081, 8082, 8083)]
    stops = Change("set", WEB_POD, Destination(), STILL)
    less = Change("set", others[1], Destination(2), Destination(1))
    changes = [stops, gone(others[2]), less, added(others[0], Destination())]
    told = arrange(changes, {}, {WEB: Server("rr")})
    assert [c.key for c in told.changes] == [others[1], others[0], WEB_POD, others[2]]


def test_timeouts_that_nobody_wants_stay_as_they_are() -> None:
    assert arrange([gone(TIMEOUTS)], {}, {}) == ([], [])


@pytest.mark.parametrize(
    ("change", "number", "other"),
    [
        (added(WEB, Server("rr")), EEXIST, "set"),
        (added(WEB, Server("rr")), ENOENT, None),  # there is no such scheduler
        (Change("set", WEB, None, Server("rr")), ESRCH, "add"),
        (Change("set", WEB, None, Server("rr")), ENOENT, None),
        (added(WEB_POD, Destination()), EEXIST, "set"),
        (added(WEB_POD, Destination()), ESRCH, "add"),
        (added(WEB_POD, Destination()), EINVAL, None),
        (Change("set", WEB_POD, None, Destination()), ENOENT, "add"),
        (Change("set", WEB_POD, None, Destination()), ESRCH, "add"),
        (Change("set", TIMEOUTS, None, Timeouts(1, 1, 1)), EINVAL, None),
        (gone(WEB), ESRCH, None),
    ],
)
def test_what_else_leads_to_the_same_end(change: Change, number: int, other: str | None) -> None:
    second = instead(change, number)
    assert (second and (second.verb, second.key, second.new)) == (other and (other, change.key, change.new))


def test_what_is_gone_need_not_go() -> None:
    assert is_done(gone(WEB), ESRCH)
    assert is_done(gone(WEB_POD), ENOENT)
    assert not is_done(gone(WEB), EINVAL)
    assert not is_done(added(WEB, Server("rr")), ENOENT)


# --- for people -------------------------------------------------------------------------------


def test_in_words() -> None:
    assert (
        describe(added(WEB_POD, Destination()), {}) == "add destination 10.244.1.7:8080 of 10.96.0.9:80/TCP"
    )
    assert describe(gone(WEB6_POD), {}) == "delete destination [fd00:1::7]:8080 of [fd00::9]:80/TCP"
    assert dialects.describe(Change("set", DNS, None, Server("rr")), {}) == "change server 10.96.0.9:53/UDP"
    assert describe(Change("set", TIMEOUTS, None, None), {}) == "change timeouts"


@pytest.mark.parametrize("line", [line for line in PHRASES if line[1] in "Aa-"])
def test_as_ipvsadm_is_told(line: str) -> None:
    change = PHRASES[line]
    assert show({change.key: change.new}) == f"{line}\n"


def test_servers_stand_before_their_destinations_and_timeouts_before_all() -> None:
    text = show(every_construct())
    assert [line[:2] for line in text.splitlines()] == ["--"] + ["-A"] * 6 + ["-a"] * 5
    assert show({}) == ""
    assert "-b sh-fallback,sh-port" in text
    assert "-b flag-2" in text


def test_families_by_themselves() -> None:
    objects = every_construct()
    both = sorted([*show(objects, "ip").splitlines(), *show(objects, "ip6").splitlines()[1:]])
    assert both == show(objects).splitlines()
    assert show(objects, "ip6").count("fd00") == show(objects, "ip6").count("\n") + 0
    assert family_of(WEB6_POD) == "ip6"
    assert family_of(TIMEOUTS) == "ip"


def test_every_scheduler_is_told_of() -> None:
    assert len(SCHEDULERS) == 14
    assert SCHEDULERS.keys() >= FALLING_BACK
    assert all(said and not said.endswith(".") for said in SCHEDULERS.values())


# --- laws -------------------------------------------------------------------------------------


@given(programs(few=True), programs(few=True))
def test_its_laws_are_those_of_a_plane(there: dict[Key, Object], wanted: dict[Key, Object]) -> None:
    plane = MemoryPlane(laws, there)
    for step in steps(diff(there, wanted), {PLANE: KINDS}):
        plane.edit(step.changes)
    assert plane.objects == wanted


def test_a_destination_lies_in_its_server() -> None:
    assert laws.place(WEB_POD) == WEB
    assert laws.place(WEB) is None
    assert laws.place(TIMEOUTS) is None
    assert list(laws.references(WEB_POD, Destination())) == []


def test_a_server_that_is_set_keeps_its_destinations() -> None:
    plane = MemoryPlane(laws, {WEB: Server("rr"), WEB_POD: Destination()})
    plane.edit([Change("set", WEB, Server("rr"), Server("sh"))])
    assert plane.objects == {WEB: Server("sh"), WEB_POD: Destination()}
    plane.edit([gone(WEB)])
    assert plane.objects == {}
    assert server_key(VIP, TCP, 80) == WEB
