"""
Killed at any moment while the cluster changes, and started anew: it ends level.
"""

from __future__ import annotations

import os
import random
import signal
import time

from kubeway.planes.ipvs.text import show as show_servers
from tests.guest import market
from tests.guest.witness import servers, unlevel, wanted
from tests.kernel.place import Place, until

ROUNDS = 3
VIPS = [f"10.96.0.{n}" for n in range(50, 70)]
PODS = ["a", "b", "c", "x", "ra", "rb", "rc"]


def test_killed_at_any_moment_it_ends_level(balanced: Place) -> None:
    place, node = balanced, balanced.lab.node
    chance = random.Random(11)

    def change() -> None:
        number = chance.randrange(len(VIPS))
        name, vip = f"s{number}", VIPS[number]
        if chance.random() < 0.2:
            (place.manifests / f"{name}.json").unlink(missing_ok=True)
            return
        port = chance.choice([0, 30100 + number])
        externals = chance.choice([[], [f"198.18.0.{100 + number}"]])
        policy = {"externalTrafficPolicy": chance.choice(["Local", "Cluster"])} if port else {}
        pods = chance.sample(PODS, chance.randrange(5))
        service = market.service(name, vip, node_port=port, externals=externals, **policy)
        place.say(f"{name}.json", service, *market.slices(name, pods))

    place.say("node.json", *market.NODE)
    for _ in range(40):
        change()
    for number in range(ROUNDS):
        with place.run() as proxy:
            if number == 0:  # while it begins
                time.sleep(chance.uniform(0.5, 2.5))
            else:  # at work
                proxy.wait_ready()
                for _ in range(10):
                    change()
                    time.sleep(chance.uniform(0, 0.2))
            os.kill(proxy.pid, signal.SIGKILL)
        change()
    with place.run() as proxy:
        proxy.wait_ready()
        assert unlevel(place) == []
        program = wanted(place).objects
        # Who was about to be taken away when the last one was killed is, in a second.
        until("nobody drains", lambda: servers(node) == show_servers(program).splitlines())
        assert " error " not in proxy.log
        assert "Traceback" not in proxy.log
