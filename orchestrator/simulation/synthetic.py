"""Synthetic spot traces: one zone that is up and down in turns, with memoryless or heavy-tailed spells."""

import numpy as np

from orchestrator.errors import Refused

#: Lomax (Pareto II) shape of heavy-tailed spells: finite mean, infinite variance.
TAIL = 1.5
MOST_TICKS = 10_000_000


def spells(
    *, mean_up_hours: float, mean_down_hours: float, heavy_tailed: bool, ticks: int, tick_seconds: int, seed: int
) -> list[int]:
    """`ticks` values of 1 (an instance can be had) or 0. The same arguments give the same trace.

    Raises Refused for means, ticks or gaps that make no trace.
    """
    for field, value in (("mean-up", mean_up_hours), ("mean-down", mean_down_hours)):
        if not 0 < value < 1e6:
            raise Refused(f"--{field} must be above 0 hours, not {value}")
    if not 1 <= ticks <= MOST_TICKS:
        raise Refused(f"--ticks must be from 1 to {MOST_TICKS}, not {ticks}")
    if not 1 <= tick_seconds <= 86400:
        raise Refused(f"--gap must be from 1 to 86400 seconds, not {tick_seconds}")
    if seed < 0:
        raise Refused(f"--seed must be 0 or more, not {seed}")
    chance = np.random.default_rng(seed)
    means = {1: mean_up_hours, 0: mean_down_hours}
    state = int(chance.random() < mean_up_hours / (mean_up_hours + mean_down_hours))
    trace: list[int] = []
    while len(trace) < ticks:
        stretch = chance.pareto(TAIL) * (TAIL - 1) if heavy_tailed else chance.exponential()
        length = max(1, round(min(stretch * means[state] * 3600 / tick_seconds, ticks)))
        trace.extend([state] * min(length, ticks - len(trace)))
        state = 1 - state
    return trace
