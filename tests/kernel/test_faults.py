"""
What may happen to a proxy in its life, with real packets: it is killed at any moment,
its rules are taken away, its manifests spoil, its clients' time runs out.

The kernel side of faults (refusals, stale generations, lost answers) is test_nft_plane's.
"""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.kernel.place import CLIENT, SERVER, VIP, Place, answered, endpoints, service, until

pytestmark = pytest.mark.kernel


def test_a_kill_loses_no_connection_and_a_restart_mends_what_was_missed(place: Place) -> None:
    lab = place.lab
    pods = sorted(lab.addresses)[:3]
    place.say("service.json", service())
    place.say("slice.json", endpoints(lab, pods[:1], 9999))
    place.start(lab.host(f"pod/{pods[0]}"), SERVER, "0.0.0.0", 9999)
    first = place.run()
    with first:
        first.wait_ready()
        served = 0

        def connected() -> bool:
            return lab.host("outside").ask(VIP, 80, "TCP").kind != "refused"

        until("the server is up", connected)
        lines = place.start(lab.host("outside"), CLIENT, VIP, 80)
        until("the connection is made", lines)
        os.kill(first.pid, signal.SIGKILL)
        served = lines()
        until("the connection goes on without the proxy", lambda: lines() > served + 20)
    # While nobody looks: the endpoints change, an element goes, a rule comes.
    place.say("slice.json", endpoints(lab, pods[1:3]))
    lab.node.run(["nft", "delete", "element", "ip", "kubeway", "cluster-ips", "{", VIP, "}"])
    lab.node.run(["nft", "insert", "rule", "ip", "kubeway", "unowned", "counter"])
    with place.run() as second:
        second.wait_ready()
        assert answered(lab) == set(pods[1:3])
        served = lines()
        until("the connection goes on with the new proxy", lambda: lines() > served + 20)
        listing = lab.node.run(["nft", "list", "table", "ip", "kubeway"]).stdout
        assert "counter" not in listing
        assert "synced after start" in second.log


def test_a_restart_with_nothing_changed_writes_nothing(place: Place) -> None:
    lab = place.lab
    place.say("all.json", service(), endpoints(lab, sorted(lab.addresses)[:2]))
    with place.run() as first:
        first.wait_ready()
    generation = lab.node.run(["nft", "--json", "list", "ruleset"]).stdout
    with place.run() as second:
        second.wait_ready()
        until("it says so", lambda: "synced after start: 0 changes" in second.log)
    assert lab.node.run(["nft", "--json", "list", "ruleset"]).stdout == generation


def test_killed_again_and_again_while_all_changes_it_ends_up_right(place: Place) -> None:
    lab = place.lab
    pods = sorted(lab.addresses)[:4]
    place.say("service.json", service())
    place.say("slice.json", endpoints(lab, pods[:1]))
    for round_ in range(6):
        proxy = place.run()
        with proxy:
            if round_:
                # Sooner or later in its start, so that it dies before, in or after a write.
                time.sleep(0.12 * round_)
            else:
                proxy.wait_ready()
            place.say("slice.json", endpoints(lab, pods[round_ % 3 : round_ % 3 + 2]))
            os.kill(proxy.pid, signal.SIGKILL)
    place.say("slice.json", endpoints(lab, pods[:2]))
    with place.run() as last:
        last.wait_ready()
        assert answered(lab) == set(pods[:2])


@pytest.mark.parametrize(
    "vandal", ["flush ruleset", "flush chain ip kubeway dispatch", "delete table ip kubeway"]
)
def test_rules_taken_away_come_back_by_themselves(place: Place, vandal: str) -> None:
    lab = place.lab
    pods = sorted(lab.addresses)[:2]
    place.say("all.json", service(), endpoints(lab, pods))
    with place.run() as proxy:
        proxy.wait_ready()
        assert answered(lab) == set(pods)
        lab.node.run(["nft", *vandal.split()])
        until("the Service answers again", lambda: answered(lab, 10) <= set(pods))
        until("the log tells", lambda: "repaired" in proxy.log)


def test_affinity_ends_when_its_time_is_over_and_not_before(place: Place) -> None:
    lab = place.lab
    pods = sorted(lab.addresses)[:3]
    affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}}
    place.say("all.json", service(**affinity), endpoints(lab, pods))

    def remembered() -> bool:
        listing = lab.node.run(["nft", "list", "map", "ip", "kubeway", "affinity"]).stdout
        return "expires" in listing

    with place.run() as proxy:
        proxy.wait_ready()
        chosen = set()
        end = time.monotonic() + 60
        # One client chooses anew each time it was forgotten: one of three, so soon another one.
        while len(chosen) < 2:
            assert time.monotonic() < end, chosen
            names = answered(lab, 20)
            assert len(names) == 1, "the client strayed within its time"
            chosen |= names
            until("the client is forgotten", lambda: not remembered())


def test_a_spoilt_manifest_is_told_in_a_line_and_what_was_good_stays(place: Place) -> None:
    lab = place.lab
    pods = sorted(lab.addresses)[:2]
    place.say("service.json", service())
    place.say("slice.json", endpoints(lab, pods))
    with place.run() as proxy:
        proxy.wait_ready()
        (place.manifests / "slice.json").write_text('{"kind": "EndpointSlice", "metadata": {"name": ')
        until("the log tells", lambda: "slice.json" in proxy.log)
        (line,) = [line for line in proxy.log.splitlines() if "slice.json" in line]
        assert "slice.json:1:" in line
        assert answered(lab) == set(pods)
        place.say("slice.json", endpoints(lab, pods[:1]))
        until("the mended file is in force", lambda: answered(lab, 10) == set(pods[:1]))
