"""Replay spot policies over traces: batch work under a deadline, beside the offline optimum.

The decisions are those of the daemon: the same policy objects, fed one tick at a time with what they would have seen.
Where a policy says that its answer holds, the replay jumps to the next change, so its time grows with what happens,
not with ticks.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.errors import Refused
from orchestrator.simulation.optimum import optimal_cost
from orchestrator.simulation.traces import Trace
from policies.deadline import POLICIES, Proposing, earliest_deadline_seconds, next_step
from policies.hazard import Belief, observe, unseen
from policies.market import IDLE, ON_DEMAND, Job, Market, Step, Zone

MOST_STARTS = 10_000
#: of an hour, in any currency: beyond it a price is a slip, and its arithmetic overflows
HIGHEST_PRICE = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is replayed: durations in whole seconds, prices per hour, one spot price for each zone."""

    work_seconds: int
    deadline_seconds: int
    overhead_seconds: int
    on_demand_price: float
    spot_prices: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One replay. `switches` counts machines started after the first; `finished_hours` is None if it never finished."""

    policy: str
    start_tick: int
    cost: float
    optimal_cost: float
    finished_hours: float | None
    deadline_missed: bool
    preemptions: int
    switches: int

    @property
    def ratio(self) -> float:
        return self.cost / self.optimal_cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """`ticks` ticks from `tick` on in which one thing ran, for pictures and for comparing decisions."""

    tick: int
    ticks: int
    step: Step
    done_seconds: int


def task_of(
    trace: Trace,
    *,
    work_hours: float,
    deadline_hours: float,
    overhead_hours: float,
    on_demand_price: float,
    spot_prices: Sequence[float],
) -> Task:
    """A task in whole seconds: work and overhead rounded up, the deadline down. Raises Refused if it cannot be met."""
    for field, value in (("task-hours", work_hours), ("deadline-hours", deadline_hours)):
        if not 0 < value < math.inf:
            raise Refused(f"--{field} must be a number above 0, not {value:g}")
    if not 0 <= overhead_hours < math.inf:
        raise Refused(f"--restart-overhead-hours must be a number, 0 or more, not {overhead_hours:g}")
    for field, value in (("on-demand-price", on_demand_price), *(("spot-price", price) for price in spot_prices)):
        if not 0 < value <= HIGHEST_PRICE:
            raise Refused(
                f"--{field} must be a number above 0, at most {HIGHEST_PRICE:,}, not {value:g}: "
                "costs are compared as ratios"
            )
    zones = len(trace.names)
    if len(spot_prices) not in (1, zones):
        raise Refused(f"--spot-price: {len(spot_prices)} prices for {zones} zones; give one for all, or one for each")
    task = Task(
        work_seconds=math.ceil(round(work_hours * 3600, 6)),
        deadline_seconds=math.floor(round(deadline_hours * 3600, 6)),
        overhead_seconds=math.ceil(round(overhead_hours * 3600, 6)),
        on_demand_price=on_demand_price,
        spot_prices=tuple(spot_prices) * (zones if len(spot_prices) == 1 else 1),
    )
    earliest = earliest_deadline_seconds(task.work_seconds, task.overhead_seconds, trace.tick_seconds)
    if task.deadline_seconds < earliest:
        raise Refused(
            f"--deadline-hours {deadline_hours:g} is too short for --task-hours {work_hours:g}: "
            f"the earliest that can be promised is {math.ceil(earliest / 36) / 100:g} h"
        )
    if deadline_ticks(trace, task) > trace.ticks:
        hours = trace.ticks * trace.tick_seconds / 3600
        raise Refused(f"--deadline-hours {deadline_hours:g} is longer than the trace ({hours:.2f} h)")
    return task


def deadline_ticks(trace: Trace, task: Task) -> int:
    return task.deadline_seconds // trace.tick_seconds


def even_starts(trace: Trace, task: Task, count: int) -> list[int]:
    """`count` start ticks, evenly from the first possible one to the last."""
    if not 1 <= count <= MOST_STARTS:
        raise Refused(f"--starts must be from 1 to {MOST_STARTS}, not {count}")
    last = trace.ticks - deadline_ticks(trace, task)
    return [index * last // (count - 1) for index in range(count)] if count > 1 else [0]


def alone(trace: Trace, task: Task) -> list[tuple[Trace, Task]]:
    """Each zone as a market of its own, with the task at its price."""
    return [
        (
            Trace(names=(name,), tick_seconds=trace.tick_seconds, counts=trace.counts[zone : zone + 1]),
            replace(task, spot_prices=(price,)),
        )
        for zone, (name, price) in enumerate(zip(trace.names, task.spot_prices, strict=True))
    ]


def optima(trace: Trace, task: Task, starts: Sequence[int]) -> dict[int, float]:
    """The offline optimum of each start tick. Raises Refused for a start without room for the deadline."""
    ticks = deadline_ticks(trace, task)
    for start in starts:
        if not 0 <= start <= trace.ticks - ticks:
            raise Refused(
                f"--start-tick {start}: must be from 0 to {trace.ticks - ticks}, the deadline within the trace"
            )
    up = trace.up
    return {
        start: optimal_cost(
            up[:, start : start + ticks],
            tick_seconds=trace.tick_seconds,
            work_seconds=task.work_seconds,
            overhead_seconds=task.overhead_seconds,
            on_demand_price=task.on_demand_price,
            spot_prices=task.spot_prices,
        )
        for start in dict.fromkeys(starts)
    }


def require(policy: str) -> Proposing:
    """The policy of this name. Raises Refused, with the names there are."""
    if policy not in POLICIES:
        raise Refused(f"--policy: there is no policy {policy!r}; there are {', '.join(POLICIES)}")
    return POLICIES[policy]


def replay(trace: Trace, task: Task, policy: str, starts: Sequence[int], optima: Mapping[int, float]) -> list[Run]:
    """One run per start tick, in the order given. What lies before a start is the past that a policy may learn from."""
    require(policy)
    course = _Course(trace)
    belief, known = unseen(len(trace.names)), 0
    runs: dict[int, Run] = {}
    for start in sorted(set(starts)):
        belief, known = course.watch(belief, known, start), start
        runs[start] = _run(course, task, policy, start, belief, optima[start])
    return [runs[start] for start in starts]


def belief_before(trace: Trace, start: int) -> Belief:
    """What watching the ticks before `start` teaches."""
    return _Course(trace).watch(unseen(len(trace.names)), 0, start)


def stretches(trace: Trace, task: Task, propose: Proposing, start: int, belief: Belief) -> Iterator[Stretch]:
    """What ran, from the start tick to the end of the work or to the deadline, with the policy's reasons."""
    return _stretches(_Course(trace), task, propose, start, belief)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Several runs of one policy; ratios are cost over the offline optimum."""

    mean_ratio: float
    p95_ratio: float
    worst_ratio: float
    misses: int
    preemptions: int
    switches: int


def summarise(runs: Sequence[Run]) -> Summary:
    ratios = np.array([run.ratio for run in runs])
    return Summary(
        mean_ratio=float(ratios.mean()),
        p95_ratio=float(np.percentile(ratios, 95)),
        worst_ratio=float(ratios.max()),
        misses=sum(run.deadline_missed for run in runs),
        preemptions=sum(run.preemptions for run in runs),
        switches=sum(run.switches for run in runs),
    )


class _Course:
    """A trace as a course of events: which zones are up in a tick, and when that changes next."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        up = trace.up
        flips = np.flatnonzero((up[:, 1:] != up[:, :-1]).any(axis=0)) + 1
        self.begins: list[int] = [0, *flips.tolist()]
        self.states: list[tuple[bool, ...]] = [tuple(column) for column in up[:, self.begins].T.tolist()]
        self.ends = [*self.begins[1:], trace.ticks]

    def piece(self, tick: int) -> int:
        """The index of the stretch of sameness that holds `tick`."""
        return int(np.searchsorted(self.begins, tick, side="right")) - 1

    def watch(self, belief: Belief, known: int, until: int) -> Belief:
        """The belief after watching the ticks from `known` to before `until`."""
        hour = self.trace.tick_seconds / 3600
        piece = self.piece(known)
        while known < until:
            end = min(self.ends[piece], until)
            belief = observe(belief, self.states[piece], (end - known) * hour)
            known, piece = end, piece + 1
        return belief


def _run(course: _Course, task: Task, policy: str, start: int, belief: Belief, optimum: float) -> Run:
    trace = course.trace
    tick = trace.tick_seconds
    ticks = {ON_DEMAND: 0} | dict.fromkeys(range(len(trace.names)), 0)
    starts = preemptions = done = 0
    finished: float | None = None
    running = IDLE
    for stretch in _stretches(course, task, POLICIES[policy], start, belief):
        run = stretch.step.run
        if running >= 0 and not trace.counts[running, stretch.tick] > 0:
            preemptions += 1
            running = IDLE
        starts += run not in (IDLE, running)
        if run != IDLE:
            ticks[run] += stretch.ticks
        running, done = run, stretch.done_seconds
        if done >= task.work_seconds:
            finished = (stretch.tick + stretch.ticks - start) * tick - (done - task.work_seconds)
    prices = {ON_DEMAND: task.on_demand_price} | dict(enumerate(task.spot_prices))
    return Run(
        policy=policy,
        start_tick=start,
        cost=sum(ticks[run] * prices[run] for run in ticks) * tick / 3600,
        optimal_cost=optimum,
        finished_hours=None if finished is None else finished / 3600,
        deadline_missed=finished is None or finished > task.deadline_seconds,
        preemptions=preemptions,
        switches=max(0, starts - 1),
    )


def _stretches(course: _Course, task: Task, propose: Proposing, start: int, belief: Belief) -> Iterator[Stretch]:
    """Decide, jump as far as the decision holds, see what came of it, again.

    In its last tick a job does more than its work: `done_seconds` counts what the machine could have done in whole
    ticks.
    """
    trace = course.trace
    tick, at, end = trace.tick_seconds, start, start + deadline_ticks(trace, task)
    markets: dict[tuple[bool, ...], Market] = {}
    running, overhead, done = IDLE, 0, 0
    piece = course.piece(at)
    while at < end and done < task.work_seconds:
        up = course.states[piece]
        if running >= 0 and not up[running]:
            running, overhead = IDLE, 0
        market = markets.get(up) or markets.setdefault(up, _market(trace, task, up))
        job = Job(
            work_seconds=task.work_seconds,
            deadline_seconds=task.deadline_seconds,
            overhead_seconds=task.overhead_seconds,
            elapsed_seconds=(at - start) * tick,
            done_seconds=done,
            running=running,
            overhead_left_seconds=overhead,
        )
        step = next_step(job, market, belief, propose)
        ticks = min(step.hold_ticks, course.ends[piece] - at, end - at)
        if step.run == IDLE:
            overhead = 0
        else:
            if step.run != running:
                overhead = task.overhead_seconds
            ticks = min(ticks, -(-(task.work_seconds - done + overhead) // tick))
            done += max(0, ticks * tick - overhead)
            overhead = max(0, overhead - ticks * tick)
        running = step.run
        yield Stretch(tick=at, ticks=ticks, step=step, done_seconds=done)
        belief = observe(belief, up, ticks * tick / 3600)
        at += ticks
        if at == course.ends[piece]:
            piece += 1


def _market(trace: Trace, task: Task, up: tuple[bool, ...]) -> Market:
    zones = zip(trace.names, task.spot_prices, up, strict=True)
    return Market(
        tick_seconds=trace.tick_seconds,
        on_demand_price=task.on_demand_price,
        zones=tuple(Zone(name=name, price=price, up=now) for name, price, now in zones),
    )
