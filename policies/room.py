"""A full fleet: who makes room when no more may be up and what is wanted is not there."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from policies.disruption import Leaving
from policies.placement import MARGIN, Memory
from policies.serving import ON_DEMAND, Fleet, Goal
from policies.snapshot import Instance, Purchase

BESIDE = "without surge none is left beside it"


def made(
    machines: Sequence[Instance], fleet: Fleet, goal: Goal, asked: Collection[int], memory: Any
) -> tuple[Leaving, ...]:
    """One of `machines`, the first of the fleet's replicas, for the base on demand that lacks, or for a machine of the
    pools that are `asked`.

    Of more than are needed, a spot machine: for the base any, for others one that our own policy's allocation does not
    want. Where none is to spare (without surge) one goes when what the promise leaves open is enough for the two starts
    that a refusal costs; that is how often it is tried, too.
    """
    there = list(zip(machines, fleet.replicas, strict=False))
    spots = Counter(one.pool for _, one in there if one.pool != ON_DEMAND)
    held = len(there) - spots.total()
    for_base = fleet.on_demand and held < goal.base_on_demand
    ready = sum(one.ready for _, one in there)
    if not (for_base or asked) or ready < goal.replicas:
        return ()
    wanted = memory.wanted if isinstance(memory, Memory) else spots
    of_spot = [row for row in there if row[1].pool != ON_DEMAND]
    of_spot.sort(key=lambda row: (spots[row[1].pool] <= wanted[row[1].pool], row[1].ready, -row[1].launched_at))
    for machine, one in of_spot:
        if (for_base or spots[one.pool] > wanted[one.pool]) and ready - one.ready >= goal.replicas:
            what = "the base on demand" if for_base else "what is wanted instead"
            return (Leaving(instance=machine, reason=f"surplus: it makes room for {what}"),)
    if len(there) > goal.replicas or not isinstance(memory, Memory) or not _affordable(goal, memory):
        return ()
    if for_base:
        reason = f"makes room for the base on demand: {BESIDE}"
        return tuple(Leaving(instance=machine, reason=reason) for machine, _ in of_spot[:1])
    unwanted = [machine for machine, one in of_spot if spots[one.pool] > wanted[one.pool]]
    if unwanted and ON_DEMAND in asked:
        return (Leaving(instance=unwanted[0], reason=f"makes room for what is wanted instead: {BESIDE}"),)
    rented = [machine for machine, _ in there if machine.purchase is Purchase.ON_DEMAND]
    if not rented or held <= goal.base_on_demand or not any(pool != ON_DEMAND for pool in asked):
        return ()
    return (Leaving(instance=rented[-1], reason=f"makes room to try spot: {BESIDE}"),)


def _affordable(goal: Goal, memory: Memory) -> bool:
    """Whether the promise leaves two starts open."""
    open_hours = MARGIN * (1 - goal.availability) * memory.hours - memory.short_hours
    return open_hours * 3600 >= 2 * goal.cold_start_seconds
