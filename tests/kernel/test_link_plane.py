"""The link plane on this kernel, which may have no dummy links; with those that have, in tests/guest."""

from __future__ import annotations

import errno
import json
import subprocess
from contextlib import closing

import pytest

from kubeway.errors import Refused
from kubeway.planes.link import LINK, Address, Dummy, address_key
from kubeway.program.plan import diff
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
