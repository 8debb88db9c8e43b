"""Spot pools in the loop's terms: what they cost, what the ledger has of them, and what a policy answers about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policies.disruption import Leaving
from policies.plan import Target
from policies.snapshot import Instance, Offer, Purchase

#: Where nothing can be had on demand, an hour of it counts as this many of the dearest pool's.
UNOBTAINABLE = 3.0
#: A daemon that was away for longer did not see what became of its machines.
UNWATCHED_SECONDS = 3600.0

#: a memory as the ledger keeps it
Plain = Mapping[str, Any]
#: when a pool last took a machine back, and when it last refused one
Events = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A spot pool: its offer, and what an hour costs there of as much throughput as the best offer's machine has."""

    offer: Offer
    price: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What to launch (an offer, or None: something on demand) and why, who may go, and what to remember (None: what
    is remembered is still true)."""

    launches: tuple[tuple[Offer | None, str], ...] = ()
    #: so many on demand may wait for as many of the spot machines that are asked now, until the next tick
    waits: int = 0
    stops: tuple[Leaving, ...] = ()
    memory: Plain | None = None
    notes: tuple[str, ...] = ()
    target: Target | None = None  # None: as it was asked for


def is_spot(machine: Instance) -> bool:
    return machine.purchase is Purchase.SPOT


def events(offer: Offer) -> Events:
    """What the ledger has of this pool."""
    return (
        None if offer.lost_at is None else offer.lost_at.timestamp(),
        None if offer.refused_at is None else offer.refused_at.timestamp(),
    )


def happened(names: Sequence[str], seen: Sequence[Events], before: Mapping[str, Events], which: int) -> tuple[int, ...]:
    """The pools of which the ledger has something new. What was so before the first look teaches nothing."""
    return tuple(
        at
        for at, name in enumerate(names)
        if name in before and seen[at][which] is not None and seen[at][which] != before[name][which]
    )
