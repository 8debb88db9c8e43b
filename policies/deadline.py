"""Batch work under a deadline on machines that may vanish: the shield that keeps the promise, the policies it guards.

**The shield.** An action is allowed only if after the coming tick the work left, with one more start, still fits into
the whole ticks left on on-demand machines: ceil((work + overhead) / tick) <= ticks. By induction the deadline then
holds on any sequence of availability, as long as on-demand machines launch when asked and the overhead of a start is
not underestimated.

**The rest is cleverness** (policies.published, policies.learned): it may cost money, never the deadline.
"""

from collections.abc import Callable
from dataclasses import replace

from policies import learned, published
from policies.hazard import Belief
from policies.market import FOREVER, IDLE, ON_DEMAND, Job, Market, Step

Proposing = Callable[[Job, Market, Belief], Step]

DEFAULT = "learned"
POLICIES: dict[str, Proposing] = {
    DEFAULT: learned.propose,
    "on-demand": published.on_demand,
    "greedy": published.greedy,
    "time-sliced": published.time_sliced,
    "uniform-progress": published.uniform_progress,
    "uniform-progress-eager": published.uniform_progress_eager,
}


def next_step(job: Job, market: Market, belief: Belief, propose: Proposing = learned.propose) -> Step:
    """What the policy proposes if the shield allows it, on-demand otherwise.

    `belief` is what was seen before the coming tick. `job.running` must be what survived into the coming tick (IDLE
    when its machine was lost).
    """
    if job.work_left_seconds <= 0:
        return Step(run=IDLE, reason="the work is done", hold_ticks=FOREVER)
    step = propose(job, market, belief)
    holds = shielded_ticks(job, market, step.run)
    if holds == 0:
        return Step(run=ON_DEMAND, reason="on-demand: anything else could miss the deadline")
    return step if step.hold_ticks <= holds else replace(step, hold_ticks=holds)


def shielded_ticks(job: Job, market: Market, run: int) -> int:
    """For how many ticks `run` is allowed from now on, by the shield, while no zone changes; on-demand always is."""
    tick = market.tick_seconds
    ticks = job.left_seconds // tick
    if run == ON_DEMAND:
        return FOREVER
    need = -(-(job.work_left_seconds + job.overhead_seconds) // tick)
    if run == IDLE:
        return max(0, ticks - need)
    overhead = job.overhead_left_seconds if run == job.running else job.overhead_seconds
    work = job.work_left_seconds - max(0, tick - overhead)
    if work > 0 and -(-(work + job.overhead_seconds) // tick) > ticks - 1:
        return 0
    # When it has started up, each tick takes a tick off both sides: if it is safe then, it is safe before and after.
    started = -(-(job.work_left_seconds + overhead + job.overhead_seconds) // tick) <= ticks
    return FOREVER if started or work <= 0 else 1


def earliest_deadline_seconds(work_seconds: int, overhead_seconds: int, tick_seconds: int) -> int:
    """The shortest deadline that can be promised: on-demand from the first tick, in whole ticks."""
    return -(-(work_seconds + overhead_seconds) // tick_seconds) * tick_seconds
