"""Replay spot policies over traces: a service that needs so many replicas ready, beside the omniscient bound.

The decisions are those of the daemon: the same policy objects, fed with what they would have seen. A launch attempt is the only
probe; its outcome is known at the next step. Where a policy says that its answer holds, the replay jumps to the next change.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.simulation.traces import Trace
from policies.serving import ON_DEMAND, Decision, Fleet, Goal, Placing, Replica

STEP_SECONDS = 60
UNSCORED_SECONDS = 3600
#: What an hour costs on demand; spot prices are shares of it.
ON_DEMAND_PRICE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What is replayed."""

    goal: Goal
    spot_ratio: float
    notice_seconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """How it went, without the first hour. Cost is against `replicas` on-demand ones; the others are shares of time."""

    policy: str
    relative_cost: float
    availability: float
    capacity: float
    preemptions: int
    launches: int
    worst_hour: float  # lowest capacity of any 60 consecutive minutes
    on_demand_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """`steps` steps from `step` on in which `ready` replicas served and the machines of `spot` and `on_demand` were paid."""

    step: int
    steps: int
    ready: int
    spot: int
    on_demand: int
    lost: int
    decision: Decision


def replay(trace: Trace, service: Service, policy: str, place: Placing) -> Served:
    """Serve through the whole trace."""
    goal = service.goal
    steps = trace.ticks * trace.tick_seconds // STEP_SECONDS
    first = UNSCORED_SECONDS // STEP_SECONDS
    ready = np.zeros(steps, dtype=np.int32)
    cost = np.zeros(steps)
    on_demand = np.zeros(steps)
    preemptions = launches = 0
    for stretch in stretches(trace, service, place):
        part = slice(stretch.step, stretch.step + stretch.steps)
        ready[part] = stretch.ready
        on_demand[part] = stretch.on_demand
        cost[part] = stretch.spot * service.spot_ratio + stretch.on_demand
        if stretch.step >= first:
            preemptions += stretch.lost
            launches += len(stretch.decision.launches)
    served = np.minimum(ready[first:], goal.replicas) / goal.replicas
    total = np.cumsum(np.concatenate([[0.0], served]))
    return Served(
        policy=policy,
        relative_cost=float(cost[first:].mean() / goal.replicas),
        availability=float((ready[first:] >= goal.replicas).mean()),
        capacity=float(served.mean()),
        preemptions=preemptions,
        launches=launches,
        worst_hour=float(((total[60:] - total[:-60]) / 60).min()),
        on_demand_share=float(on_demand[first:].mean() / goal.replicas),
    )


def stretches(trace: Trace, service: Service, place: Placing) -> Iterator[Stretch]:
    """What ran, step by step, or in longer pieces where the policy's answer holds and nothing changes."""
    goal, gap = service.goal, trace.tick_seconds
    steps = trace.ticks * gap // STEP_SECONDS
    course = _Course(trace, service.notice_seconds)
    prices = (service.spot_ratio * ON_DEMAND_PRICE,) * len(trace.names)
    fleet: list[Replica] = []
    refused: list[int] = []
    memory = None
    number = step = 0
    while step < steps:
        now = step * STEP_SECONDS
        lost = course.reclaim(fleet, now)
        for index, one in enumerate(fleet):
            ready = one.ready or one.launched_at + goal.cold_start_seconds <= now
            reclaim_at = course.reclaim_at(fleet, index, now)
            if ready != one.ready or reclaim_at != one.reclaim_at:
                fleet[index] = replace(one, ready=ready, reclaim_at=reclaim_at)
        decision = place(
            Fleet(
                now=float(now),
                on_demand_price=ON_DEMAND_PRICE,
                pools=prices,
                replicas=tuple(fleet),
                lost=tuple(lost),
                refused=tuple(refused),
            ),
            goal,
            memory,
        )
        memory = decision.memory
        stopped = {stop.id for stop in decision.stops}
        if stopped:
            fleet = [one for one in fleet if one.id not in stopped]
        refused = []
        for launch in decision.launches:
            if launch.pool == ON_DEMAND or course.gives(fleet, launch.pool, now):
                fleet.append(Replica(id=number, pool=launch.pool, launched_at=float(now)))
                number += 1
            else:
                refused.append(launch.pool)
        ready_now = sum(one.ready for one in fleet)
        spot = sum(one.pool != ON_DEMAND for one in fleet)
        ahead = 1
        if not refused and decision.hold_seconds > STEP_SECONDS:
            until = min(now + decision.hold_seconds, course.next_change(fleet, now))
            for one in fleet:
                if not one.ready:
                    until = min(until, one.launched_at + goal.cold_start_seconds)
            ahead = max(1, int(-(-(min(until, steps * STEP_SECONDS) - now) // STEP_SECONDS)))
            ahead = min(ahead, steps - step)
        yield Stretch(
            step=step,
            steps=ahead,
            ready=ready_now,
            spot=spot,
            on_demand=len(fleet) - spot,
            lost=len(lost),
            decision=decision,
        )
        step += ahead


class _Course:
    """A trace as a course of events: what a pool gives at a moment, whom it takes back, and when that changes next."""

    def __init__(self, trace: Trace, notice_seconds: int) -> None:
        self.gap = trace.tick_seconds
        self.notice = notice_seconds
        self.unbounded = bool(trace.counts.max(initial=0) <= 1)
        self.counts: list[list[int]] = trace.counts.tolist()
        self.changes: list[list[int]] = []
        for counts in trace.counts:
            edges = np.flatnonzero(counts[1:] != counts[:-1]) + 1
            ends = np.concatenate([edges, [len(counts) + 10**9]])
            self.changes.append(ends[np.searchsorted(edges, np.arange(len(counts)), side="right")].tolist())

    def gives(self, fleet: list[Replica], pool: int, now: int) -> bool:
        count = self.counts[pool][now // self.gap]
        return count > 0 and (self.unbounded or sum(one.pool == pool for one in fleet) < count)

    def reclaim(self, fleet: list[Replica], now: int) -> list[int]:
        """Take back, in place, what the pools no longer hold, the newest first; the pool of each."""
        lost = []
        for index in range(len(fleet) - 1, -1, -1):
            pool = fleet[index].pool
            if pool != ON_DEMAND and self._exceeds(fleet, pool, self.counts[pool][now // self.gap]):
                lost.append(pool)
                del fleet[index]
        return lost

    def reclaim_at(self, fleet: list[Replica], index: int, now: int) -> float | None:
        """When this replica is lost, if that is within the notice."""
        pool = fleet[index].pool
        if not self.notice or pool == ON_DEMAND:
            return None
        older = sum(one.pool == pool for one in fleet[:index])
        counts = self.counts[pool]
        for tick in range(now // self.gap, min(len(counts) - 1, (now + self.notice) // self.gap) + 1):
            if counts[tick] == 0 or (not self.unbounded and counts[tick] <= older):
                return float(max(now, tick * self.gap))
        return None

    def next_change(self, fleet: list[Replica], now: int) -> float:
        """The next moment at which a pool in use may take a machine back, or say so."""
        tick = now // self.gap
        soonest = float("inf")
        for pool in {one.pool for one in fleet if one.pool != ON_DEMAND}:
            change = self.changes[pool][tick] * self.gap
            warned = change - self.notice
            soonest = min(soonest, warned if warned > now else change)
        return soonest

    def _exceeds(self, fleet: list[Replica], pool: int, count: int) -> bool:
        if count == 0:
            return True
        return not self.unbounded and sum(one.pool == pool for one in fleet) > count
