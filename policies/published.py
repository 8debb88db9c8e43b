"""The rules that others published, as proposals to the shield of policies.deadline.

Uniform progress is of Wu et al., "Can't Be Late" (NSDI 2024); time-sliced is the ancestor it is compared with there.
With several zones "spot is available" means in any zone, and the zone that has been up longest is taken.
"""

from policies.hazard import Belief, age_hours
from policies.market import FOREVER, IDLE, ON_DEMAND, Job, Market, Step

SLICE_SECONDS = 4 * 3600


def on_demand(job: Job, market: Market, belief: Belief) -> Step:
    """On-demand from beginning to end."""
    return Step(run=ON_DEMAND, reason="on-demand only", hold_ticks=FOREVER)


def greedy(job: Job, market: Market, belief: Belief) -> Step:
    """Spot when there is any, otherwise wait; on-demand, to the end, when the deadline leaves no other choice."""
    if job.running == ON_DEMAND:
        return Step(run=ON_DEMAND, reason="on-demand until the end", hold_ticks=FOREVER)
    zone = _spot(job, market, belief)
    if zone is not None:
        return _on_spot(zone, market)
    return Step(run=IDLE, reason="no spot machine: waiting", hold_ticks=FOREVER)


def time_sliced(job: Job, market: Market, belief: Belief) -> Step:
    """Slices of four hours, each with its share of the work due at its end; greedy inside each."""
    tick = market.tick_seconds
    zone = _spot(job, market, belief)
    if zone is not None and job.running == zone:
        return _on_spot(zone, market)
    end = min((job.elapsed_seconds // SLICE_SECONDS + 1) * SLICE_SECONDS, job.deadline_seconds)
    due = end * job.work_seconds / job.deadline_seconds - job.done_seconds
    left = end - job.elapsed_seconds
    to_end = -(-left // tick)
    if due > 0:
        if job.running == ON_DEMAND:
            hold = min(to_end, int((due + job.overhead_left_seconds) // tick))
            return Step(run=ON_DEMAND, reason="on-demand until the slice's work is done", hold_ticks=max(1, hold))
        if due + job.overhead_seconds > left - tick:
            return Step(run=ON_DEMAND, reason="on-demand: the slice's work would be late")
    if zone is not None:
        return _on_spot(zone, market)
    if due > 0:
        to_end = min(to_end, int((left - tick - due - job.overhead_seconds) // tick) + 1)
    return Step(run=IDLE, reason="no spot machine, and the slice can wait", hold_ticks=max(1, to_end))


def uniform_progress(job: Job, market: Market, belief: Belief) -> Step:
    """Keep to the line from nothing at the start to all done at the deadline; leave on-demand only well above it."""
    return _along_the_line(job, market, belief, hysteresis=True)


def uniform_progress_eager(job: Job, market: Market, belief: Belief) -> Step:
    """Uniform progress that leaves on-demand as soon as spot appears."""
    return _along_the_line(job, market, belief, hysteresis=False)


def _along_the_line(job: Job, market: Market, belief: Belief, *, hysteresis: bool) -> Step:
    tick = market.tick_seconds
    pace = job.work_seconds / job.deadline_seconds
    on_line = job.elapsed_seconds * pace
    if job.running >= 0:
        return _on_spot(job.running, market)
    if job.left_seconds < job.work_left_seconds + 2 * job.overhead_seconds:
        return Step(run=ON_DEMAND, reason="on-demand until the end: little time is left", hold_ticks=FOREVER)
    margin = 2 * job.overhead_seconds
    if job.running == ON_DEMAND and hysteresis and job.done_seconds < on_line + margin * pace:
        behind = on_line + margin * pace - job.done_seconds
        hold = max(1, int(behind / (tick * (1 - pace)))) if pace < 1 else FOREVER
        return Step(run=ON_DEMAND, reason="on-demand until well above the line", hold_ticks=hold)
    zone = _spot(job, market, belief)
    if zone is not None:
        return _on_spot(zone, market)
    if job.done_seconds < on_line:
        return Step(run=ON_DEMAND, reason="on-demand: behind the line")
    until_line = (job.done_seconds - on_line) / (tick * pace)
    until_net = (job.left_seconds - job.work_left_seconds - margin) // tick
    return Step(run=IDLE, reason="above the line: waiting for spot", hold_ticks=max(1, min(int(until_line), until_net)))


def _spot(job: Job, market: Market, belief: Belief) -> int | None:
    """The zone that runs, else the one that has been up longest."""
    if job.running >= 0:
        return job.running
    up = [index for index, zone in enumerate(market.zones) if zone.up]
    return max(up, key=lambda index: age_hours(belief.zones[index], up=True), default=None)


def _on_spot(zone: int, market: Market) -> Step:
    return Step(run=zone, reason=f"spot in {market.zones[zone].name}", hold_ticks=FOREVER)
