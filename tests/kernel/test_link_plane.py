"""The link plane on this kernel, which may have no dummy links; with those that have, in tests/guest."""

from __future__ import annotations

import errno
import json
import subprocess
from contextlib import closing

import pytest

from kubeway.errors import Refused
from kubeway.planes.link import LINK, Address, Dummy, Homeward, Rule, address_key, rule_key, table_key
from kubeway.planes.link.objects import KINDS, PLANE, role_key
from kubeway.program.plan import diff, steps
from kubeway.program.program import Key, Object
from kubeway.shell.link_plane import LinkPlane, probe
from kubeway.values import parse_ip
from tests.kernel.netns import inside, ip, needs_root

pytestmark = [pytest.mark.kernel, needs_root]


def links() -> list[str]:
    told = subprocess.run(["ip", "-j", "link", "show"], capture_output=True, text=True, check=True).stdout
    return [link["ifname"] for link in json.loads(told)]


def test_probing_says_what_is_the_matter_and_leaves_nothing() -> None:
    def work() -> None:
        has = subprocess.run(
            ["ip", "link", "add", "dummy7", "type", "dummy"], capture_output=True, check=False
        )
        if has.returncode == 0:
            ip("link del dummy7")
        why = (
            ""
            if has.returncode == 0
            else "this kernel has no dummy links: load the module dummy (modprobe dummy)"
        )
        before = links()
        assert probe() == why
        assert links() == before

    inside(work)


def test_a_node_without_the_link_holds_nothing() -> None:
    def work() -> None:
        with closing(LinkPlane()) as plane:
            assert plane.read_now() == {}
            assert plane.bound() == set()
            assert plane.remove() == []

    inside(work)


def test_a_kernel_without_dummy_links_refuses_the_link() -> None:
    wanted = {LINK: Dummy(), address_key(parse_ip("10.96.0.1")): Address()}

    def work() -> None:
        if not probe():
            pytest.skip("this kernel has dummy links")
        with closing(LinkPlane(wanted)) as plane:
            with pytest.raises(Refused, match="add link kube-ipvs0") as refused:
                plane.write_now(list(diff(plane.read_now(), wanted)))
            assert (refused.value.key, refused.value.errno) == (LINK, errno.EOPNOTSUPP)

    inside(work)


STEER: dict[Key, Object] = {
    key: obj
    for family in (4, 6)
    for key, obj in {table_key(family): Homeward(), rule_key(family, 0x2000): Rule()}.items()
}


def level(plane: LinkPlane, wanted: dict[Key, Object]) -> int:
    """Make it so; how many changes that took."""
    changes = list(diff(plane.read_now(), wanted))
    for step in steps(changes, {PLANE: KINDS}):
        plane.write_now(step.changes)
    return len(changes)


def shown(family: str) -> tuple[str, str]:
    def ask(words: str) -> str:
        return subprocess.run(
            ["ip", family, *words.split()], capture_output=True, text=True, check=True
        ).stdout

    return ask("rule show"), ask("route show table 117")


APART: dict[Key, Object] = {
    **STEER,
    rule_key(4, 0x1000): Rule(),
    role_key(4, 0x2000, "pass"): Rule(),
    role_key(4, 0x2000, "late"): Rule(),
    role_key(4, 0, "end"): Rule(),
}
del APART[rule_key(4, 0x2000)]


def test_rules_for_what_comes_in_and_what_goes_out_follow_each_other() -> None:
    def work() -> None:
        with closing(LinkPlane(STEER)) as plane:
            for wanted, before in ((STEER, {}), (APART, STEER), (STEER, APART), (APART, STEER)):
                plane.program = wanted
                level(plane, wanted)
                assert plane.read_now() == wanted
                assert plane.generation() == plane.generation()
                assert level(plane, wanted) == 0, before
            rules = [line for line in shown("-4")[0].splitlines() if "117" in line]
            assert rules == [
                "1:\tfrom all fwmark 0x1000/0x1000 lookup 117 proto 117",
                "2:\tfrom all fwmark 0x2000/0x2000 iif lo goto 4 proto 117",
                "3:\tfrom all fwmark 0x2000/0x2000 lookup 117 proto 117",
                "4:\tfrom all nop proto 117",
            ]
            for line in ("2", "4"):
                before = plane.generation()
                ip(f"rule del priority {line}")
                assert plane.generation() == before + 1
                assert level(plane, APART) == 1
            assert plane.remove(steering=True) == ["rules and routes for steered packets"]
            assert "117" not in "".join(shown("-4") + shown("-6"))

    inside(work)


def test_what_steers_is_written_and_read_and_taken_away() -> None:
    def work() -> None:
        with closing(LinkPlane(STEER)) as plane:
            assert level(plane, STEER) == len(STEER)
            assert plane.read_now() == STEER
            for family in ("-4", "-6"):
                rules, routes = shown(family)
                assert "\n1:\tfrom all fwmark 0x2000/0x2000 lookup 117 proto 117" in rules
                assert routes.startswith("local default dev lo proto 117")
            assert level(plane, STEER) == 0
            # The link's are another mode's, and go apart.
            assert plane.remove() == []
            assert plane.read_now() == STEER
            assert plane.remove(steering=True) == ["rules and routes for steered packets"]
            assert plane.remove(steering=True) == []
            assert plane.read_now() == {}
            assert "117" not in "".join(shown("-4") + shown("-6"))

    inside(work)


@pytest.mark.parametrize(
    "command",
    [
        "rule del priority 1",
        "-6 rule del priority 1",
        "route del local default table 117",
        "-6 route del local default table 117",
        "rule add priority 7 fwmark 0x2000/0x2000 lookup 117 protocol 117",
        "rule add priority 1 fwmark 0x2000/0x2000 iif lo lookup 117 protocol 117",
        "rule add priority 1 fwmark 0x4000/0x4000 lookup 117 protocol 117",
    ],
)
def test_what_others_do_to_it_is_heard_and_put_right(command: str) -> None:
    def work() -> None:
        with closing(LinkPlane(STEER)) as plane:
            level(plane, STEER)
            before = plane.generation()
            assert plane.generation() == before
            ip("rule add priority 9 fwmark 0x1/0x1 lookup 100")
            ip("route add local 10.0.0.0/8 dev lo table 117")
            assert plane.generation() == before
            ip(command)
            assert plane.generation() == before + 1
            assert level(plane, STEER) == 1
            assert plane.read_now() == STEER
            assert "9:\tfrom all fwmark 0x1/0x1 lookup 100" in shown("-4")[0]
            assert "local 10.0.0.0/8 dev lo" in shown("-4")[1]

    inside(work)
