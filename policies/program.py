"""The integer program behind a mix of machines, solved by HiGHS without a gap.

Whole machines n of each pool; shares y of each class of requests on each kind of machine (known by its speeds):

    minimise   sum cost n + start cost (n - today)+
    such that  sum over kinds of y = 1                                              for each class
               sum over classes of y rate / speed <= utilisation x sum of its n     for each kind
               n <= capacity,  minimum <= sum of n <= maximum,  machines never spot >= min(steady, sum of n)

The program of Mélange (arXiv 2404.14527) without its slices; capacity, headroom, spot and switching are added.
Splitting a class freely supposes a door that can tell the classes apart; with one class it supposes nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: no gap but the solver's tolerances, the same answer every time, and without the searches that only cost time here
OPTIONS = {
    "threads": 1,
    "random_seed": 0,
    "mip_rel_gap": 0.0,
    "mip_abs_gap": 4e-5,  # less than half a micro-unit
    "mip_allow_restart": False,
    "mip_heuristic_run_rins": False,
    "mip_heuristic_run_rens": False,
    "mip_allow_cut_separation_at_nodes": False,
}

#: the program counts in these: a single micro-unit must stand out from the solver's tolerances, and a fleet's cost too
MICROS = 10_000
#: of a machine: a class that asks for less counts as this much, or the solver would not see it
LEAST_LOAD = 1e-4

#: images a second by class of requests, of one machine; 0: it cannot carry that class
Speeds = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lot:
    """Machines that differ in nothing but their names."""

    speeds: Speeds
    cost_micros: int  # an hour
    start_micros: int = 0  # what each start beyond `today` adds to an hour
    capacity: int | None = None  # at most so many; None: no bound
    today: int = 0
    spot: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What every fleet keeps to."""

    utilisation: float = 0.7  # share of the measured throughput that is planned with
    minimum: int = 0
    maximum: int | None = None
    steady: int = 0  # so many are never spot machines


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Machines by pool; by class the share that each kind carries and the share that nobody does."""

    counts: tuple[int, ...]
    shares: tuple[Mapping[Speeds, float], ...]
    unmet: tuple[float, ...]
    too_few: int  # machines missing to the minimum


def solve(pools: Sequence[Lot], rates: Sequence[float], limits: Limits, *, short: bool = False) -> Solution | None:
    """The cheapest counts that carry `rates` (images a second by class, all above 0); None when there are none.

    With `short`, rates and minimum may be missed, and the least of that is looked for instead of the least cost.
    """
    if not pools:
        enough = short or (not rates and limits.minimum <= 0)
        return Solution(counts=(), shares=(), unmet=(1.0,) * len(rates), too_few=limits.minimum) if enough else None
    import highspy

    solver = highspy.Highs()
    solver.silent()
    for option, value in OPTIONS.items():
        solver.setOptionValue(option, value)
    bounds = [_bound(pool, rates, limits) for pool in pools]
    counts = [solver.addIntegral(0, bound) for bound in bounds]
    unmet = [solver.addVariable(0, 1 if short else 0) for _ in rates]
    too_few = solver.addVariable(0, max(0, limits.minimum) if short else 0)
    shares = _carry(solver, pools, counts, rates, unmet, limits.utilisation)
    total = solver.qsum(counts)
    solver.addConstr(total + too_few >= limits.minimum)
    if limits.maximum is not None:
        solver.addConstr(total <= limits.maximum)
    _keep_steady(solver, pools, counts, bounds, limits.steady)
    if short:
        missed = [rate * left for rate, left in zip(rates, unmet, strict=True)]
        solver.minimize(solver.qsum([*missed, too_few]))
    else:
        solver.minimize(_cost(solver, pools, counts))
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return None
    value = solver.getSolution().col_value
    return Solution(
        counts=tuple(round(value[count.index]) for count in counts),
        shares=tuple({speeds: value[share.index] for speeds, share in by_kind.items()} for by_kind in shares),
        unmet=tuple(value[left.index] for left in unmet),
        too_few=round(value[too_few.index]),
    )


def _bound(pool: Lot, rates: Sequence[float], limits: Limits) -> int:
    """More machines than this are of no use, or not to be had."""
    load = sum(rate / speed for rate, speed in zip(rates, pool.speeds, strict=True) if speed > 0)
    useful = math.ceil(load / limits.utilisation) + max(0, limits.minimum, limits.steady)
    return min(bound for bound in (useful, pool.capacity, limits.maximum) if bound is not None)


def _carry(
    solver: Any,
    pools: Sequence[Lot],
    counts: Sequence[Any],
    rates: Sequence[float],
    unmet: Sequence[Any],
    utilisation: float,
) -> list[dict[Speeds, Any]]:
    """The shares, all of each class handed out, and no kind of machine given more than it may carry."""
    kinds = list(dict.fromkeys(pool.speeds for pool in pools))
    shares: list[dict[Speeds, Any]] = []
    for number, left in enumerate(unmet):
        shares.append({speeds: solver.addVariable(0, 1) for speeds in kinds if speeds[number] > 0})
        solver.addConstr(solver.qsum(shares[-1].values(), left) == 1)
    for speeds in kinds:
        load = [
            share[speeds] * max(rate / (utilisation * speed), LEAST_LOAD)
            for share, rate, speed in zip(shares, rates, speeds, strict=True)
            if speed > 0
        ]
        machines = solver.qsum(count for count, pool in zip(counts, pools, strict=True) if pool.speeds == speeds)
        if load:
            solver.addConstr(solver.qsum(load) <= machines)
    return shares


def _keep_steady(solver: Any, pools: Sequence[Lot], counts: Sequence[Any], bounds: Sequence[int], steady: int) -> None:
    """Either so many machines are not of the spot market, or none is of it."""
    if steady <= 0 or not any(pool.spot for pool in pools):
        return
    enough = solver.addBinary()
    firm = [count for count, pool in zip(counts, pools, strict=True) if not pool.spot]
    solver.addConstr(solver.qsum(firm) >= steady * enough)
    for count, bound, pool in zip(counts, bounds, pools, strict=True):
        if pool.spot:
            solver.addConstr(count <= bound * enough)


def _cost(solver: Any, pools: Sequence[Lot], counts: Sequence[Any]) -> Any:
    """Ten thousand micro-units an hour: the machines, and the starts that today's fleet does not spare.

    Spot counts a micro-unit more than it costs: at the same price it is better not to lose the machine.
    """
    costs = []
    for pool, count in zip(pools, counts, strict=True):
        costs.append(count * ((pool.cost_micros + pool.spot) / MICROS))
        if pool.start_micros:
            started = solver.addVariable(0)
            solver.addConstr(started >= count - pool.today)
            costs.append(started * (pool.start_micros / MICROS))
    return solver.qsum(costs)
