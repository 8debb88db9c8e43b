"""No synthetic market in which the learned policy costs more than 2 % above uniform progress.

The whole sweep is 864 cells (`pytest -m soak tests/simulation/test_synthetic_sweep.py`, about an hour on one core); an
ordinary run takes its corners.
"""

import itertools

import numpy as np
import pytest

from orchestrator.simulation import backtest
from orchestrator.simulation.synthetic import spells
from orchestrator.simulation.traces import Trace

MEAN_HOURS = (0.5, 1.5, 5.0, 24.0)
PRICE_RATIOS = (1.5, 3.0, 5.0)
OVERHEAD_HOURS = (0.05, 0.2, 0.5)
DEADLINE_HOURS = (52, 60, 72)
MOST = 1.02


def market(up: float, down: float, *, heavy: bool) -> Trace:
    """24 days of one zone, in ticks of 300 s."""
    row = spells(mean_up_hours=up, mean_down_hours=down, heavy_tailed=heavy, ticks=7000, tick_seconds=300, seed=5)
    return Trace(names=("zone",), tick_seconds=300, counts=np.array([row]))


def against_uniform_progress(trace: Trace, ratio: float, overhead: float, deadline: float, starts: int) -> float:
    """What the learned policy costs for each unit that uniform progress does; both as means of cost / optimum."""
    job = backtest.task_of(
        trace,
        work_hours=48,
        deadline_hours=deadline,
        overhead_hours=overhead,
        on_demand_price=3.0,
        spot_prices=[3.0 / ratio],
    )
    ticks = backtest.even_starts(trace, job, starts)
    optima = backtest.optima(trace, job, ticks)
    ours, theirs = (
        backtest.summarise(backtest.replay(trace, job, policy, ticks, optima))
        for policy in ("learned", "uniform-progress")
    )
    assert ours.misses == theirs.misses == 0
    return ours.mean_ratio / theirs.mean_ratio


@pytest.mark.soak
@pytest.mark.parametrize("deadline", DEADLINE_HOURS)
@pytest.mark.parametrize(("up", "down", "heavy"), list(itertools.product(MEAN_HOURS, MEAN_HOURS, (False, True))))
def test_whole(up: float, down: float, heavy: bool, deadline: float) -> None:
    trace = market(up, down, heavy=heavy)
    found = {
        (ratio, overhead): against_uniform_progress(trace, ratio, overhead, deadline, 24)
        for ratio, overhead in itertools.product(PRICE_RATIOS, OVERHEAD_HOURS)
    }
    print(f"at worst {max(found.values()):.4f}, mean {sum(found.values()) / len(found):.4f}")
    assert not {cell: round(cost, 4) for cell, cost in found.items() if cost > MOST}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("up", "down", "heavy", "ratio", "overhead", "deadline"),
    [
        (0.5, 0.5, False, 1.5, 0.5, 52),  # spot is hardly worth its starts
        (0.5, 24.0, True, 5.0, 0.05, 72),
        (24.0, 0.5, False, 5.0, 0.2, 60),
        (5.0, 5.0, True, 3.0, 0.2, 52),
        (24.0, 24.0, True, 3.0, 0.5, 60),
    ],
)
def test_corners(up: float, down: float, heavy: bool, ratio: float, overhead: float, deadline: float) -> None:
    assert against_uniform_progress(market(up, down, heavy=heavy), ratio, overhead, deadline, 12) <= MOST
