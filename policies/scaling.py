"""How many replicas the demand needs: Little's law on measured throughput, up at once and down late."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from policies.plan import Target
from policies.snapshot import JobState, Load
from policies.windows import Bounds

#: demand is held at its highest minute of at least this long
HOLD_DOWN_SECONDS = 600.0
#: from launch to ready, as long as nobody has measured it
START_UNMEASURED_SECONDS = 120.0
#: of a replica: what floating point may be off by
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What one more replica brings, how much of it may be used, and how long it takes."""

    images_per_second: float | None  # measured; None: not measured
    utilisation: float = 0.7  # share of it that is planned with; the rest absorbs bursts
    start_seconds: float = START_UNMEASURED_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """The replicas that are up, those still starting included, and what was decided about their number before."""

    speeds: tuple[float | None, ...] = ()  # measured images a second of each; None: not measured
    starting: int = 0  # so many of them do not serve yet
    last_target: int | None = None  # None: nothing was decided yet
    raised_seconds_ago: float | None = None  # since the target last rose; None: long ago

    @property
    def held(self) -> int:
        """How many to hold. Not those that are up: more are while outdated ones are replaced, fewer after a loss."""
        return len(self.speeds) if self.last_target is None else self.last_target


def hold_down_seconds(start_seconds: float) -> float:
    """The window whose highest minute counts: two cold starts, so that nobody leaves who would be asked for again."""
    return max(HOLD_DOWN_SECONDS, 2 * start_seconds)


def target(load: Load, jobs: Sequence[JobState], up: Replicas, bounds: Bounds, scaling: Scaling) -> Target:
    """Replicas wanted now, within `bounds`: 0 outside the windows.

    Demand is the highest of what is asked for now, of the hold-down window's minutes, and of what is expected one cold
    start ahead. It rises at once, from 0 too. It is held while evidence is missing, and for one hold-down window after
    it rose: inside a burst nobody leaves.
    """
    if not bounds.open and not bounds.prewarm:
        return Target(replicas=0, reason=bounds.reason)
    need, why = _need(load, up, scaling)
    if jobs and need < 1:
        left = sum(job.items_left for job in jobs)
        need, why = 1, f"{left} batch items are waiting"
    clamped = min(max(need, bounds.min), bounds.max)
    if clamped > need:
        why = f"the minimum is {bounds.min}" if need == 0 else f"the minimum is {bounds.min} ({why})"
    elif clamped < need:
        why = f"{why}; the maximum is {bounds.max}"
    return Target(replicas=clamped, reason=f"{bounds.reason}; {why}")


def asked(load: Load) -> float:
    """Images a second to be ready for: of now, of the hold-down window, and as expected; 0 without evidence."""
    rates = (load.images_per_second, load.peak_images_per_second, load.expected_images_per_second)
    return max(rate or 0.0 for rate in rates)


def _need(load: Load, up: Replicas, scaling: Scaling) -> tuple[int, str]:
    if load.images_per_second is None and load.peak_images_per_second is None:
        return up.held, "no evidence of the load, hold"
    seen = max(load.images_per_second or 0.0, load.peak_images_per_second or 0.0)
    expected = load.expected_images_per_second or 0.0
    need, why = _carried(load, up, scaling, asked(load))
    if expected > seen:
        why = f"{why}, as on past days"
    if need >= up.held:
        return need, why
    if not load.complete:
        return up.held, f"{why}; nobody watched for a while, hold"
    raised = up.raised_seconds_ago
    if need > 0 and raised is not None and raised < hold_down_seconds(scaling.start_seconds):
        return up.held, f"{why}; the target rose {raised / 60:.0f} min ago, hold"
    return (up.held, f"{why}; {load.waiting} waiting, hold") if load.waiting else (need, why)


def _carried(load: Load, up: Replicas, scaling: Scaling, demand: float) -> tuple[int, str]:
    """The smallest fleet that carries the demand, whoever of those that are up stays."""
    if demand == 0 and load.waiting == 0:
        return 0, "no load"
    measured = [speed for speed in up.speeds if speed]
    slowest = min(measured, default=scaling.images_per_second)
    if slowest is None:
        need = max(1, up.held + 1 if load.waiting and not up.starting else up.held)
        return need, f"{demand:.2f} images/s, {load.waiting} waiting, throughput not measured"
    # a queue asks for more only when nobody is about to relieve it: what it will be by then is not known yet
    backlog = 0.0 if up.starting else load.waiting / max(1.0, scaling.start_seconds)
    rest, need = (demand + backlog) / scaling.utilisation, 0
    for speed in sorted(speed or slowest for speed in up.speeds):
        if rest <= ROUNDING * speed:
            break
        rest, need = rest - speed, need + 1
    more = math.ceil(max(0.0, rest) / (scaling.images_per_second or slowest) - ROUNDING)
    return max(1, need + more), f"{demand:.2f} images/s over {scaling.utilisation * slowest:.2f} a replica"
