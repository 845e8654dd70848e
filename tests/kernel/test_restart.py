"""
One daemon in userspace mode after another, or another mode after it, with packets of the lab: nobody is
refused, nothing breaks, and nobody is left over.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from kubeway.lab.proxy import HEALTH, KUBEWAY, Proxy
from kubeway.lab.topology import Lab
from tests.kernel.place import CLIENT, SERVER, VIP, Place, answered, endpoints, service, until
from tests.kernel.play import NFTABLES, WAYS
from tests.kernel.workers import end_workers, workers

pytestmark = pytest.mark.kernel

TALK, OTHER = 9000, 9001
SIGNALS = pytest.mark.parametrize(
    "number", [0, signal.SIGTERM, signal.SIGKILL], ids=["alive", "ended", "killed"]
)


@pytest.fixture
def shop(place: Place, lab: Lab) -> Place:
    """A Service with a port that answers, by TCP and UDP, and one at which connections stay."""
    place.way = WAYS["userspace"]
    say(place, "a")
    place.start(lab.host("pod/b"), SERVER, lab.addresses["b"], TALK)
    return place


def say(place: Place, *pods: str) -> None:
    """These answer; "b" it is with whom one talks."""
    ports = [
        {"name": "http", "port": 80, "targetPort": 8080},
        {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 8080},
    ]
    slices = endpoints(place.lab, pods)
    slices["ports"].append({"name": "dns", "port": 8080, "protocol": "UDP"})
    talk = {"namespace": "shop", "name": "talk"}
    place.say(
        "shop.json",
        service(ports=ports),
        slices,
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": talk,
            "spec": {"clusterIP": "10.96.0.11", "ports": [{"port": 80, "targetPort": TALK}]},
        },
        {
            **endpoints(place.lab, ["b"], TALK),
            "metadata": {**talk, "labels": {"kubernetes.io/service-name": "talk"}},
            "ports": [{"port": TALK}],
        },
    )


def talk(shop: Place, who: str) -> Callable[[], int]:
    lines = shop.start(shop.lab.host(who), CLIENT, "10.96.0.11", 80)
    until("they talk", lambda: lines() > 5)
    return lines


def goes_on(lines: Callable[[], int]) -> None:
    before = lines()
    until("they go on talking", lambda: lines() > before + 20)


def here(lab: Lab) -> set[int]:
    return set(workers(lab.node.net))


def in_place_of(proxy: Proxy, number: int) -> None:
    if number == signal.SIGTERM:
        assert proxy.stop() == 0
    elif number:
        proxy.kill()


def took_over(proxy: Proxy) -> bool:
    return "takes over 16 listeners from a proxy before" in proxy.log and "synced" in proxy.log


@SIGNALS
def test_a_restart_is_not_noticed(number: int, shop: Place, lab: Lab) -> None:
    with shop.run() as first:
        first.wait_ready()
        old = here(lab)
        lines = [talk(shop, who) for who in ("pod/client", "outside", "node")]
        floods = [lab.host(who).flood(VIP, 80, "TCP") for who in ("pod/client", "outside", "node")]
        until("they come", lambda: all(flood.report().sent > 20 for flood in floods))
        in_place_of(first, number)
        for one in lines:
            goes_on(one)
        say(shop, "c")  # which those who live on without a daemon do not hear of
        with shop.run() as second:
            until("the next one serves", lambda: took_over(second) and answered(lab) == {"c"})
            sent = [flood.report().sent for flood in floods]
            until(
                "they go on", lambda: all(f.report().sent > n + 50 for f, n in zip(floods, sent, strict=True))
            )
            for flood in floods:
                tally = flood.stop()
                assert tally.lost == {}, tally
                assert tally.answered["c"] > 20
            for one in lines:
                goes_on(one)
            assert old < here(lab)
            shop.end()
            until("the old ones end", lambda: not old & here(lab))
            if not number:
                assert "a successor took over" in first.log
                assert first.stop() == 0
            assert "Traceback" not in first.log + second.log


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


UDP = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.connect((sys.argv[1], 53))
client.settimeout(0.5)
asked = lost = 0
while True:
    asked += 1
    client.send(b"%d" % asked)
    try:
        # A server of the lab says who it is, whatever it is asked.
        while not client.recv(4096):
            pass
    except TimeoutError:
        lost += 1
        print("lost", asked, file=sys.stderr, flush=True)
        if lost > 1:
            raise SystemExit("more than one question was not answered")
    print(asked, flush=True)
"""


@SIGNALS
def test_of_udp_no_more_is_lost_than_was_under_way(number: int, shop: Place, lab: Lab) -> None:
    """Of a client that asks again and again from one port, and waits for each answer, at most one question is
    not answered; of clients that come newly, none."""
    with shop.run() as first:
        first.wait_ready()
        old = here(lab)
        lines = [shop.start(lab.host(who), UDP, VIP) for who in ("pod/client", "outside", "node")]
        floods = [lab.host(who).flood(VIP, 53, "UDP", wait=2) for who in ("pod/client", "outside")]
        for one in lines:
            goes_on(one)
        in_place_of(first, number)
        for one in lines:
            goes_on(one)
        with shop.run() as second:
            until("the next one serves", lambda: took_over(second))
            for one in lines:
                goes_on(one)
            for flood in floods:
                tally = flood.stop()
                assert tally.lost == {}, tally
                assert tally.sent > 20
            if number == signal.SIGTERM:  # half a minute, so once
                # Their sessions are over when nobody has answered for as long as a first answer may take.
                until("the old ones end", lambda: not old & here(lab), 60)
    end_workers(lab.node.net)  # of the second; and of the first, whose sessions last


def test_a_daemon_that_was_succeeded_writes_nothing_and_is_well(shop: Place, lab: Lab) -> None:
    with shop.run() as first:
        first.wait_ready()
        with shop.run() as second:
            until("it knows", lambda: "a successor took over" in first.log)
            written = first.log.count("synced")
            for pod in ("c", "a", "c"):
                say(shop, pod)
                until("the successor has written it", lambda pod=pod: answered(lab) == {pod})  # type: ignore[misc]
            lab.node.run(["nft", "delete", "table", "ip", "kubeway"])
            until("the successor has repaired it", lambda: "repaired" in second.log)
            until("and it is so", lambda: answered(lab) == {"c"})
            assert first.log.count("synced") == written
            assert "drift" not in first.log
            for path in ("/healthz", "/livez", "/readyz"):
                assert lab.node.fetch(*HEALTH, path).status == 200
            assert first.stop() == 0
            second.wait_ready()  # with the port that is free now
            assert second.log.count("repaired") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["ended", "killed"])
def test_cleanup_ends_those_who_live_on(number: int, shop: Place, lab: Lab) -> None:
    with shop.run() as proxy:
        proxy.wait_ready()
        in_place_of(proxy, number)
    assert answered(lab) == {"a"}
    assert len(here(lab)) == 1
    assert "the relay's workers" in lab.node.run([*KUBEWAY, "cleanup"]).stdout
    until("they end", lambda: not here(lab))
    assert "nothing to remove" in lab.node.run([*KUBEWAY, "cleanup"]).stdout


def test_cleanup_leaves_those_alone_whose_daemon_lives(shop: Place, lab: Lab) -> None:
    with shop.run() as proxy:
        proxy.wait_ready()
        before = here(lab)
        assert "the relay's workers" not in lab.node.run([*KUBEWAY, "cleanup"]).stdout
        until("it repairs its rules", lambda: "repaired" in proxy.log)
        until("they serve", lambda: answered(lab) == {"a"})
        assert here(lab) == before


@SIGNALS
def test_a_start_in_another_mode_ends_them(number: int, shop: Place, lab: Lab) -> None:
    with shop.run() as first:
        first.wait_ready()
        in_place_of(first, number)
        with shop.run(way=WAYS["iptables-nf_tables"]) as second:
            until("it says so", lambda: "the relay's workers" in second.log)
            until("they end", lambda: not here(lab))
            if not number:
                until("it knows", lambda: "a successor took over" in first.log)
            assert answered(lab) == {"a"}
            assert not NFTABLES.holds(lab.node)


def test_in_a_container_the_first_process_waits_for_what_is_carried(shop: Place, lab: Lab) -> None:
    with shop.run(within=("unshare", "--pid", "--fork", "--kill-child")) as container:
        container.wait_ready()
        (first,) = children(container.pid)
        lines = talk(shop, "outside")
        with shop.run() as second:
            until("it is succeeded", lambda: "a successor took over" in container.log)
            os.kill(first, signal.SIGTERM)
            until(
                "it says what it waits for",
                lambda: "with the last that carry connections, 1 yet" in container.log,
            )
            second.wait_ready()  # the ports are free already
            goes_on(lines)
            assert container.is_running
            shop.end()
            assert container.wait() == 0
            assert len(here(lab)) == 1


def test_in_a_container_that_was_not_succeeded_it_does_not(shop: Place, lab: Lab) -> None:
    with shop.run(within=("unshare", "--pid", "--fork", "--kill-child")) as container:
        container.wait_ready()
        (first,) = children(container.pid)
        talk(shop, "outside")
        os.kill(first, signal.SIGTERM)
        assert container.wait() == 0
        assert not here(lab)  # they ended with it
