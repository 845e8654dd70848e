"""
`kubeway demo`: a small cluster at work, on this machine, in half a minute.

A node, its pods and an outside host are made as network namespaces; the real
daemon runs in the node on the files of examples/shop; real connections are made
and it is counted who answers. At the end nothing is left of it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kubeway.errors import BadInput
from kubeway.lab import kernel
from kubeway.lab.host import Answer, Host, LabError
from kubeway.lab.proxy import Proxy, cleanup
from kubeway.lab.topology import Lab

SHOP = Path(__file__).resolve().parents[3] / "examples" / "shop"
PODS = {f"pod-{n}": f"10.244.1.{n}" for n in (11, 12, 13, 14)} | {"client": "10.244.1.20"}
FLAGS = ("--cluster-cidr=10.244.0.0/16,fd00:10:244::/48",)
CART, CART6, SESSION, DNS = "10.96.0.10", "fd00:10:96::10", "10.96.0.30", "10.96.0.53"
NODE = "203.0.113.10"
EACH = 300
SOME = 1500
PATIENCE = 20.0


def demo() -> int:
    """0 if every connection that should be answered was."""
    if not SHOP.is_dir():
        raise BadInput(f"{SHOP}: not there; the demo runs on examples/shop, so run it from a source checkout")
    kernel.become_root()
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="kubeway-demo-") as home:
        shop = Path(home, "shop")
        shutil.copytree(SHOP, shop)
        with Lab(PODS, bridged={}) as lab:
            for name, ip in PODS.items():
                lab.host(f"pod/{name}").serve(name, "UDP", ip, 5353)
            return Show(console, lab, shop, Path(home, "log")).play()


class Show:
    def __init__(self, console: Console, lab: Lab, shop: Path, log: Path) -> None:
        self._console = console
        self._lab = lab
        self._shop = shop
        self._log = log
        self._client = lab.host("pod/client")
        self._made = 0
        self._unanswered = 0

    def play(self) -> int:
        self._say("A node, five pods, an outside host", "each a network namespace while this runs")
        start = time.monotonic()
        with Proxy(self._lab.node, self._shop, self._log, FLAGS) as proxy:
            proxy.wait_ready()
            took = time.monotonic() - start
            self._line(
                f"kubeway run --manifests examples/shop: all in the kernel {took:.2f} s after its start"
            )
            self._ways_in()
            self._affinity()
            self._refusal()
            self._changes()
            self._listing()
            proxy.stop()
        self._afterwards()
        return self._verdict()

    def _ways_in(self) -> None:
        self._say("Who answers", f"{EACH} connections each; the endpoints take equal shares")
        table = Table("from", "to", "answered by", "who see as client")
        client, node = self._client, self._lab.node
        self._ask(table, client, "shop/cart, cluster IP", CART, 80)
        self._ask(table, client, "shop/cart, cluster IP", CART6, 80)
        self._ask(table, client, "shop/dns, cluster IP, UDP", DNS, 53, "UDP")
        self._ask(table, node, "shop/cart, cluster IP", CART, 80)
        self._ask(table, self._lab.outside, "shop/web, node port", NODE, 30080)
        self._console.print(table)

    def _ask(self, table: Table, host: Host, what: str, ip: str, port: int, proto: str = "TCP") -> None:
        answers = host.ask_many(EACH, ip, port, proto, at_once=4)
        self._count(answers)
        to = f"{what}\n[dim]{escape(f'[{ip}]:{port}' if ':' in ip else f'{ip}:{port}')}[/]"
        seen = {"the node" if a.masqueraded else host.name for a in answers if a.kind == "answered"}
        table.add_row(host.name, to, tally(answers).replace(", ", "\n"), "\n".join(sorted(seen)))

    def _affinity(self) -> None:
        self._say("Session affinity", f"{EACH} connections each to shop/session; no client strays")
        table = Table("from", "answered by")
        for name in PODS:
            answers = self._lab.host(f"pod/{name}").ask_many(EACH, SESSION, 80)
            self._count(answers)
            table.add_row(f"pod/{name}", tally(answers))
        self._console.print(table)

    def _refusal(self) -> None:
        answer = self._client.ask(CART, 81)
        self._line(f"A port that shop/cart does not have, {CART}:81, is {answer.kind}, not left to time out.")

    def _changes(self) -> None:
        self._say("pod-11 leaves shop/cart, pod-14 joins", "while a client connects as fast as it can")
        flood = self._client.flood(CART, 80)
        wait_for(lambda: flood.report().sent > SOME, "the client to get going")
        replace_endpoint(self._shop / "cart.yaml", "cart-ipv4", "10.244.1.11", "10.244.1.14")
        start = time.monotonic()
        wait_for(lambda: flood.report().answered.get("pod-14", 0) > 0, "pod-14 to be asked")
        joined = time.monotonic() - start
        before = flood.report()
        wait_for(lambda: flood.report().sent > before.sent + SOME, "more connections")
        after = flood.stop()
        self._made += after.sent
        lost = sum(after.lost.values())
        self._unanswered += lost
        late = after.answered.get("pod-11", 0) - before.answered.get("pod-11", 0)
        who = ", ".join(f"{name} {n}" for name, n in sorted(after.answered.items()))
        self._line(f"pod-14 answered {joined * 1000:.0f} ms after the file was replaced.")
        self._line(f"From then on pod-11 was given {late} of {after.sent - before.sent} connections.")
        self._line(f"{after.sent} connections in all: {who}; lost: [bold]{lost}[/]")

    def _listing(self) -> None:
        self._say("What the kernel holds", "nft list table ip kubeway, but for empty maps and sets")
        table = self._lab.node.run(["nft", "list", "table", "ip", "kubeway"]).stdout
        blocks = table.expandtabs().rstrip().split("\n\n")
        # The first one begins the table, so it stays whatever it holds.
        kept = [block for n, block in enumerate(blocks) if not n or "elements" in block or " chain " in block]
        self._console.print(escape("\n".join(kept)), style="dim", soft_wrap=True)

    def _afterwards(self) -> None:
        self._say("The daemon was told to stop", "its rules outlive it")
        answers = self._client.ask_many(EACH, CART, 80)
        self._count(answers)
        self._line(f"{len(answers)} more connections: {tally(answers)}")
        cleanup(self._lab.node)
        left = self._lab.node.run(["nft", "list", "ruleset"]).stdout
        if left:
            raise LabError(f"kubeway cleanup left behind: {left.strip()}")
        self._line("kubeway cleanup: the kernel holds no rule of ours any more.")

    def _verdict(self) -> int:
        if self._unanswered:
            self._line(f"\n[bold red]{self._unanswered} of {self._made} connections were not answered.[/]")
            return 1
        self._line(
            f"\n[bold green]{self._made} connections, all answered.[/] Nothing is left on this machine."
        )
        return 0

    def _count(self, answers: Sequence[Answer]) -> None:
        self._made += len(answers)
        self._unanswered += sum(a.kind != "answered" for a in answers)

    def _say(self, what: str, more: str) -> None:
        self._console.print(f"\n[bold]{what}[/]: {more}")

    def _line(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)


def tally(answers: Sequence[Answer]) -> str:
    """`pod-11 103, pod-12 97`; what was not answered counts under how it ended."""
    counts = Counter(a.name if a.kind == "answered" else a.kind for a in answers)
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))


def replace_endpoint(file: Path, piece: str, leaves: str, joins: str) -> None:
    """Rewrite the file, whole and at once, with another address in that endpoint slice."""
    objects: list[dict[str, Any]] = list(yaml.safe_load_all(file.read_text()))
    for obj in objects:
        if obj["kind"] == "EndpointSlice" and obj["metadata"]["name"] == piece:
            for endpoint in obj["endpoints"]:
                endpoint["addresses"] = [joins if ip == leaves else ip for ip in endpoint["addresses"]]
    draft = file.with_name(f".{file.name}")
    draft.write_text(yaml.safe_dump_all(objects))
    draft.replace(file)


def wait_for(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > end:
            raise LabError(f"waited {PATIENCE:.0f} s in vain for {what}")
        time.sleep(0.001)
