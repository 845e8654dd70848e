"""
What is there even with no service: the table, its sets, and the chains at the hooks.
"""

from __future__ import annotations

from typing import Final

from kubeway.model.node import FamilyView
from kubeway.modes.maps import doors
from kubeway.modes.maps.layout import NODE_PORT_FRONT, Words
from kubeway.modes.nftables.layout import ID_SIGN, ID_SIGN_MASK, SLOT_FIELD
from kubeway.planes.nft import build as b
from kubeway.planes.nft.objects import Chain, Masquerade, Rule, Set
from kubeway.program.program import Key, Object

_AFFINITY_SIZE: Final = 262_144
_AFFINITY_TIMEOUT: Final = 10_800_000


def base(words: Words, view: FamilyView, mark: int) -> dict[Key, Object]:
    """Of one family; `mark` is the bit that means masquerade."""
    chains = _base_chains(words, view, mark) | doors.chains(words, view)
    return doors.objects(words, view, doors.sets(words) | _sets(words), chains)


def _sets(words: Words) -> dict[str, Set]:
    front, target = words.front, (words.daddr, "th dport")
    sets = {"hairpin": Set((words.saddr, *front), comment="endpoints here that may meet themselves")}
    for maps, key in (("", front), ("nodeport-", NODE_PORT_FRONT)):
        sets |= {
            maps + "endpoints": Set((*key, SLOT_FIELD), target, comment="by slot"),
            maps + "sticky-slots": Set((*key, SLOT_FIELD), ("meta priority",), comment="ids by slot"),
            maps + "sticky-endpoints": Set((*key, "meta priority"), target, comment="by id"),
            maps + "affinity": Set(
                (words.saddr, *key),
                ("meta priority",),
                dynamic=True,
                timeout=_AFFINITY_TIMEOUT,
                size=_AFFINITY_SIZE,
                comment="clients and the ids of their endpoints",
            ),
        }
    return sets


def _base_chains(words: Words, view: FamilyView, mark: int) -> dict[str, tuple[Chain, list[Rule]]]:
    front = words.front
    new = b.new_flow()
    # What has been sent to an endpoint has met its fate, even if somebody claims that
    # endpoint's address for a Service of his own.
    astray = (*new, *b.untranslated())
    no_endpoints = b.rule(astray, b.jump("no-endpoints"))
    unowned = b.rule(astray, b.jump("unowned"))
    forget_id = b.rule(new, b.priority_is(ID_SIGN, ID_SIGN_MASK), b.priority_zero())
    firewall = b.rule(astray, b.jump("firewall"))
    dispatch = b.rule(b.jump("dispatch"))
    hairpin = b.in_set((words.saddr, *front), "hairpin")
    return {
        # Before DNAT, while the packet still has the address that it was sent to.
        "firewall-prerouting": (Chain("filter", "prerouting", -110), [firewall]),
        "firewall-output": (Chain("filter", "output", -110), [firewall]),
        "nat-prerouting": (Chain("nat", "prerouting", -100), [dispatch]),
        "nat-output": (Chain("nat", "output", -100), [dispatch]),
        "filter-input": (
            Chain("filter", "input", 0),
            [
                no_endpoints,
                *(
                    b.rule(astray, to_node, b.vmap(NODE_PORT_FRONT, "no-endpoint-nodeports"))
                    for to_node in doors.to_node(words, view)
                ),
            ],
        ),
        "filter-forward": (Chain("filter", "forward", 0), [forget_id, no_endpoints, unowned]),
        "filter-output": (Chain("filter", "output", 0), [forget_id, no_endpoints, unowned]),
        "nat-postrouting": (
            Chain("nat", "postrouting", 100),
            [
                # The bit goes out with the packet's first pass: a packet that comes by
                # again (through a tunnel, say) is not masqueraded twice.
                b.rule(b.marked(mark), b.mark_flip(mark), Masquerade()),
                b.rule(b.translated(), hairpin, Masquerade(), comment="a client that met itself"),
            ],
        ),
    }
