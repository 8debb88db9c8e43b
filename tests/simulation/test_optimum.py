"""The offline optimum against exhaustive search, and the laws that any optimum obeys."""

import itertools
import math
import random

import numpy as np
import pytest

from orchestrator.simulation.optimum import optimal_cost

IDLE, ON_DEMAND = -2, -1


def by_brute_force(up: np.ndarray, tick: int, work: int, overhead: int, dear: float, cheap: list[float]) -> float:
    """Every sequence of actions, simulated second by second of account."""
    zones, ticks = up.shape
    best = math.inf
    for plan in itertools.product([IDLE, ON_DEMAND, *range(zones)], repeat=ticks):
        running, left, done, cost = IDLE, 0, 0, 0.0
        for at, run in enumerate(plan):
            if done >= work:
                break
            if run >= 0 and not up[run, at]:
                cost = math.inf
                break
            if run == IDLE:
                running, left = IDLE, 0
                continue
            if run != running or (run >= 0 and not up[run, at - 1]):
                left = overhead
            running = run
            cost += (dear if run == ON_DEMAND else cheap[run]) * tick / 3600
            done += max(0, tick - left)
            left = max(0, left - tick)
        if done >= work:
            best = min(best, cost)
    return best


@pytest.mark.parametrize("seed", range(60))
def test_it_is_what_exhaustive_search_finds(seed: int) -> None:
    chance = random.Random(seed)
    zones = chance.choice([1, 1, 2])
    ticks = chance.randint(3, 7 if zones == 1 else 6)
    tick = chance.choice([60, 195, 600])
    overhead = chance.choice([0, 45, 150, 195, 400, 720])
    work = chance.randint(1, ticks * tick)
    up = np.array([[chance.random() < 0.6 for _ in range(ticks)] for _ in range(zones)])
    cheap = [chance.choice([0.5, 0.9731, 1.4]) for _ in range(zones)]
    found = optimal_cost(
        up,
        tick_seconds=tick,
        work_seconds=work,
        overhead_seconds=overhead,
        on_demand_price=3.06,
        spot_prices=cheap,
    )
    assert found == pytest.approx(by_brute_force(up, tick, work, overhead, 3.06, cheap))


def cost(up: np.ndarray, work: int = 20_000, overhead: int = 720, ticks: int | None = None) -> float:
    return optimal_cost(
        up[:, :ticks],
        tick_seconds=300,
        work_seconds=work,
        overhead_seconds=overhead,
        on_demand_price=3.0,
        spot_prices=[1.0] * len(up),
    )


def test_the_laws_of_an_optimum() -> None:
    up = np.random.default_rng(5).random((3, 140)) < 0.8
    by_deadline = [cost(up, ticks=ticks) for ticks in (70, 80, 100, 140)]
    assert by_deadline == sorted(by_deadline, reverse=True)
    by_zones = [cost(up[:zones]) for zones in (1, 2, 3)]
    assert by_zones == sorted(by_zones, reverse=True)
    assert [cost(up, overhead=seconds) for seconds in (0, 60, 300, 720)] == sorted(
        cost(up, overhead=seconds) for seconds in (0, 60, 300, 720)
    )
    assert [cost(up, work=seconds) for seconds in (1, 9000, 20_000)] == sorted(
        cost(up, work=seconds) for seconds in (1, 9000, 20_000)
    )


def test_the_ends_of_the_scale() -> None:
    assert cost(np.ones((1, 140), bool)) == pytest.approx(70 * 300 / 3600)  # one start, spot only: 20,720 s in 70 ticks
    assert cost(np.zeros((1, 140), bool)) == pytest.approx(3 * 70 * 300 / 3600)
    assert cost(np.ones((1, 69), bool)) == math.inf
