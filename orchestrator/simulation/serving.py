"""Replay spot policies over traces: a service that needs so many replicas ready, beside the omniscient bound.

The decisions are those of the daemon: the same policy objects, fed with what they would have seen. A launch attempt is
the only probe; its outcome is known at the next step. Where a policy says that its answer holds, the replay jumps to
the next change.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.errors import Refused
from orchestrator.simulation.traces import Trace
from policies.placement import POLICIES
from policies.serving import ON_DEMAND, Decision, Fleet, Goal, Placing, Replica, answered_first

STEP_SECONDS = 60
UNSCORED_SECONDS = 3600
#: What an hour costs on demand; spot prices are shares of it.
ON_DEMAND_PRICE = 1.0
MOST_REPLICAS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What is replayed."""

    goal: Goal
    spot_ratio: float
    notice_seconds: int = 0
    answers_at_once: bool = False  # True: as the daemon has it, whose next tick is a second away and not a step


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """How it went, without the first hour. Cost is against `replicas` on-demand ones; the others are shares of time."""

    policy: str
    relative_cost: float
    availability: float
    capacity: float
    preemptions: int
    worst_hour: float  # lowest capacity of any 60 consecutive minutes
    on_demand_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """`steps` steps from `step` on in which `ready` replicas served; `spots`, by pool, and `on_demand` were paid."""

    step: int
    steps: int
    ready: int
    spots: tuple[int, ...]
    on_demand: int
    lost: int
    decision: Decision

    @property
    def spot(self) -> int:
        return sum(self.spots)


def service_of(
    trace: Trace,
    *,
    replicas: int,
    cold_start_seconds: float,
    spot_ratio: float,
    notice_seconds: int = 0,
    availability: float = 0.99,
    guard: bool = False,
) -> Service:
    """Raises Refused for what cannot be replayed."""
    if not 1 <= replicas <= MOST_REPLICAS:
        raise Refused(f"--replicas must be from 1 to {MOST_REPLICAS}, not {replicas}")
    for field, seconds in (("cold-start-seconds", cold_start_seconds), ("notice-seconds", notice_seconds)):
        if not 0 <= seconds <= 86400:
            raise Refused(f"--{field} must be from 0 to 86400, not {seconds:g}")
    if not 0 <= spot_ratio < math.inf:
        raise Refused(f"--spot-ratio must be a number, 0 or more, not {spot_ratio:g}")
    if not 0 < availability < 1:
        raise Refused(f"--availability must be above 0 and below 1, such as 0.995, not {availability:g}")
    seconds = trace.ticks * trace.tick_seconds
    if seconds < 2 * UNSCORED_SECONDS:
        raise Refused(
            f"the traces last {seconds / 3600:.2f} h; the first is not scored, and at least one more is needed"
        )
    goal = Goal(replicas=replicas, cold_start_seconds=float(cold_start_seconds), availability=availability, guard=guard)
    return Service(goal=goal, spot_ratio=spot_ratio, notice_seconds=notice_seconds)


def replay(trace: Trace, service: Service, policy: str) -> Served:
    """Serve through the whole trace."""
    place = require(policy)
    goal = service.goal
    steps = trace.ticks * trace.tick_seconds // STEP_SECONDS
    first = UNSCORED_SECONDS // STEP_SECONDS
    ready, spot, on_demand = (np.zeros(steps) for _ in range(3))
    preemptions = 0
    for stretch in stretches(trace, service, place):
        part = slice(stretch.step, stretch.step + stretch.steps)
        ready[part], spot[part], on_demand[part] = stretch.ready, stretch.spot, stretch.on_demand
        preemptions += stretch.lost if stretch.step >= first else 0
    served = np.minimum(ready[first:], goal.replicas) / goal.replicas
    hour = 3600 // STEP_SECONDS
    total = np.cumsum(np.concatenate([[0.0], served]))
    return Served(
        policy=policy,
        relative_cost=float((spot[first:].mean() * service.spot_ratio + on_demand[first:].mean()) / goal.replicas),
        availability=float((ready[first:] >= goal.replicas).mean()),
        capacity=float(served.mean()),
        preemptions=preemptions,
        worst_hour=float(((total[hour:] - total[:-hour]) / hour).min()),
        on_demand_share=float(on_demand[first:].mean() / goal.replicas),
    )


def require(policy: str) -> Placing:
    """The policy of this name. Raises Refused, with the names there are."""
    if policy not in POLICIES:
        raise Refused(f"--policy: there is no policy {policy!r}; there are {', '.join(POLICIES)}")
    return POLICIES[policy]


def stretches(trace: Trace, service: Service, place: Placing) -> Iterator[Stretch]:
    """What ran, step by step, or in longer pieces where the policy's answer holds and nothing changes."""
    goal = service.goal
    steps = trace.ticks * trace.tick_seconds // STEP_SECONDS
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
        decision = answered_first(decision) if service.answers_at_once else decision
        stopped = {stop.id for stop in decision.stops}
        fleet = [one for one in fleet if one.id not in stopped]
        refused = []
        for launch in decision.launches:
            if launch.pool == ON_DEMAND or course.gives(fleet, launch.pool, now):
                fleet.append(Replica(id=number, pool=launch.pool, launched_at=float(now)))
                number += 1
            else:
                refused.append(launch.pool)
        until = now + (0.0 if refused else decision.hold_seconds)
        until = min(until, course.next_change(fleet, now), steps * STEP_SECONDS)
        until = min([until, *(one.launched_at + goal.cold_start_seconds for one in fleet if not one.ready)])
        ahead = max(1, math.ceil((until - now) / STEP_SECONDS))
        spots = [0] * len(trace.names)
        for one in fleet:
            if one.pool != ON_DEMAND:
                spots[one.pool] += 1
        yield Stretch(
            step=step,
            steps=ahead,
            ready=sum(one.ready for one in fleet),
            spots=tuple(spots),
            on_demand=len(fleet) - sum(spots),
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

    def least(self, pool: int, now: int) -> int:
        """The fewest machines since the step before: a dip between two steps counts."""
        tick = now // self.gap
        first = max(0, (now - STEP_SECONDS) // self.gap + 1)
        return min(self.counts[pool][first : tick + 1]) if first < tick else self.counts[pool][tick]

    def gives(self, fleet: list[Replica], pool: int, now: int) -> bool:
        count = self.counts[pool][now // self.gap]
        return count > 0 and (self.unbounded or sum(one.pool == pool for one in fleet) < count)

    def reclaim(self, fleet: list[Replica], now: int) -> list[int]:
        """Take back, in place, what the pools no longer hold, the newest first; the pool of each."""
        lost = []
        for index in range(len(fleet) - 1, -1, -1):
            pool = fleet[index].pool
            if pool != ON_DEMAND and self._exceeds(fleet, pool, self.least(pool, now)):
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
