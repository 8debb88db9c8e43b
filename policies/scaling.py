"""How many replicas the demand needs: Little's law on measured throughput."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from policies.plan import Target
from policies.snapshot import JobState, Load
from policies.windows import Bounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """The measured speed of one replica and how much of it may be used."""

    images_per_second: float | None  # of one replica; None: not measured
    utilisation: float = 0.7  # share of it that is planned with; the rest absorbs bursts


def target(load: Load, jobs: Sequence[JobState], serving: int, bounds: Bounds, scaling: Scaling) -> Target:
    """Replicas wanted now, within `bounds`: 0 outside the windows.

    Demand is the highest minute of the hold-down window (so it never scales down inside a burst), in images per
    second; replicas = demand / (utilisation x throughput), Little's law with one image in service per replica.
    Without a measured throughput one more replica is asked for while requests wait.
    """
    if not bounds.open and not bounds.prewarm:
        return Target(replicas=0, reason=bounds.reason)
    need, why = _need(load, serving, scaling)
    if jobs and need < 1:
        left = sum(job.items_left for job in jobs)
        need, why = 1, f"{left} batch items are waiting"
    clamped = min(max(need, bounds.min), bounds.max)
    if clamped > need:
        why = f"the minimum is {bounds.min}" if need == 0 else f"the minimum is {bounds.min} ({why})"
    elif clamped < need:
        why = f"{why}; the maximum is {bounds.max}"
    return Target(replicas=clamped, reason=f"{bounds.reason}; {why}")


def _need(load: Load, serving: int, scaling: Scaling) -> tuple[int, str]:
    rates = [rate for rate in (load.images_per_second, load.peak_images_per_second) if rate is not None]
    if not rates:
        return serving, "no evidence of the load, hold"
    demand = max(rates)
    if demand == 0 and load.waiting == 0:
        return 0, "no load"
    if scaling.images_per_second is None:
        need = max(1, serving + 1 if load.waiting else serving)
        return need, f"{demand:.2f} images/s, {load.waiting} waiting, throughput not measured"
    capacity = scaling.images_per_second * scaling.utilisation
    need = max(1, math.ceil(demand / capacity))
    if load.waiting and need <= serving:
        need = serving + (load.waiting > serving)
    return need, f"{demand:.2f} images/s over {capacity:.2f} a replica"
