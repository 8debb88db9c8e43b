"""Serving on spot as values: the goal, the pools, what runs, and one decision about it.

Times are seconds since any one epoch; prices are per replica and hour in one currency. A pool is a zone's spot machines
of one type; it is known by its place in `Fleet.pools`, so that a memory is plain numbers in the same order.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

#: The pool that never refuses and never takes a machine back.
ON_DEMAND = -1

#: A decision that holds for this many seconds holds until something happens.
FOREVER = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """So many replicas ready, for at least this share of time; a launch is ready `cold_start_seconds` later."""

    replicas: int
    cold_start_seconds: float
    availability: float = 0.99
    base_on_demand: int = 0  # so many are never spot machines
    guard: bool = False  # survive the loss of any one pool without falling short


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One replica that runs. `reclaim_at` is when its pool has said that it takes the machine back."""

    id: int
    pool: int
    launched_at: float
    ready: bool = False
    reclaim_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What is at `now`, and what happened since the last decision: pools that `lost` machines or `refused` one.

    `pools` are spot prices; `replicas` are in the order of their launch. Where on-demand machines are not to be had,
    its price only weighs an outage.
    """

    now: float
    on_demand_price: float
    pools: tuple[float, ...]
    replicas: tuple[Replica, ...] = ()
    lost: tuple[int, ...] = ()
    refused: tuple[int, ...] = ()
    on_demand: bool = True  # to be had


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Try to have one more replica in this pool."""

    pool: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """End this replica."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do, what to remember, and for how long the answer is *nothing more* while no replica changes."""

    launches: tuple[Launch, ...] = ()
    stops: tuple[Stop, ...] = ()
    memory: Any = None
    hold_seconds: float = 0.0
    waits: int = 0  # on-demand launches that are needed only if the spot ones launched with them are refused


def answered_first(decision: Decision) -> Decision:
    """The same without the on-demand launches that wait: for who knows before long whether spot was given."""
    asked = sum(one.pool != ON_DEMAND for one in decision.launches)
    waits, kept = min(decision.waits, asked), []
    for one in decision.launches:
        if one.pool == ON_DEMAND and waits > 0:
            waits -= 1
        else:
            kept.append(one)
    return replace(decision, launches=tuple(kept), waits=0)


#: (fleet, goal, memory or None at the first time) -> decision
Placing = Callable[[Fleet, Goal, Any], Decision]
