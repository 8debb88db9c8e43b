"""The omniscient bound of serving on spot: a linear program that knows the whole trace.

No policy that keeps the availability can cost less: replicas may be fractions, every machine is launched in time, and
the minutes left open by the promise are spent where they save most. Only a machine's cold start is paid, and a pool
that comes back can serve one cold start later at the earliest.
"""

import highspy
import numpy as np
from numpy.typing import NDArray

from orchestrator.simulation.serving import ON_DEMAND_PRICE, UNSCORED_SECONDS, Service
from orchestrator.simulation.traces import Trace


def bound(trace: Trace, service: Service) -> float:
    """The least relative cost at which any policy, knowing the future, keeps `service.goal.availability`; after the
    first hour.

    Stretches of ticks in which no pool changes are one period: within one, a constant fleet is as good as any.
    """
    goal = service.goal
    most = _servable(trace, goal.replicas, goal.cold_start_seconds)[:, UNSCORED_SECONDS // trace.tick_seconds :]
    if most.shape[1] == 0:
        return 0.0
    begins = np.concatenate([[0], np.flatnonzero((most[:, 1:] != most[:, :-1]).any(axis=0)) + 1])
    ticks = np.diff(np.concatenate([begins, [most.shape[1]]]))
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.passModel(_program(most[:, begins], ticks * trace.tick_seconds / 3600, service))
    solver.run()
    paid = solver.getInfo().objective_function_value
    hours = most.shape[1] * trace.tick_seconds / 3600
    return float(paid / (goal.replicas * ON_DEMAND_PRICE * hours))


def _servable(trace: Trace, replicas: int, cold_start_seconds: float) -> NDArray[np.int64]:
    """How many replicas of each pool can serve in each tick: what was there during a whole cold start before it."""
    counts = trace.counts
    most = np.where(counts > 0, replicas, 0) if counts.max(initial=0) <= 1 else np.minimum(counts, replicas)
    served: NDArray[np.int64] = most.copy()
    for late in range(1, int(cold_start_seconds // trace.tick_seconds) + 1):
        served[:, late:] = np.minimum(served[:, late:], most[:, :-late])
    return served


def _program(most: NDArray[np.int64], hours: NDArray[np.float64], service: Service) -> highspy.HighsLp:
    """Columns, by period: serving replicas of each pool and on demand, launches of the same, the share left unserved.

    Rows: serving + replicas x unserved >= replicas; launches >= serving - serving before; unserved hours within the
    promise.
    """
    goal = service.goal
    pools, periods = most.shape
    kinds = pools + 1
    price = np.concatenate([np.full(pools, service.spot_ratio), [1.0]]) * ON_DEMAND_PRICE
    serving = np.arange(kinds * periods).reshape(kinds, periods)
    launched = serving + kinds * periods
    unserved = 2 * kinds * periods + np.arange(periods)
    changes = np.arange(kinds * (periods - 1)).reshape(kinds, periods - 1) + periods
    total = periods + kinds * (periods - 1)
    entries = [
        (np.tile(np.arange(periods), kinds), serving.ravel(), np.ones(kinds * periods)),
        (np.arange(periods), unserved, np.full(periods, float(goal.replicas))),
        (changes.ravel(), launched[:, 1:].ravel(), np.ones(changes.size)),
        (changes.ravel(), serving[:, 1:].ravel(), -np.ones(changes.size)),
        (changes.ravel(), serving[:, :-1].ravel(), np.ones(changes.size)),
        (np.full(periods, total), unserved, hours),
    ]
    rows, columns, values = (np.concatenate([part[at] for part in entries]) for at in range(3))
    order = np.argsort(columns, kind="stable")
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = 2 * kinds * periods + periods, total + 1
    launch_cost = np.repeat(price * goal.cold_start_seconds / 3600, periods)
    lp.col_cost_ = np.concatenate([np.outer(price, hours).ravel(), launch_cost, np.zeros(periods)])
    lp.col_lower_ = np.zeros(lp.num_col_)
    caps = np.concatenate([most.astype(float), np.full((1, periods), float(goal.replicas))])
    lp.col_upper_ = np.concatenate([caps.ravel(), np.full(kinds * periods, float(goal.replicas)), np.ones(periods)])
    lp.row_lower_ = np.concatenate(
        [np.full(periods, float(goal.replicas)), np.zeros(changes.size), [-highspy.kHighsInf]]
    )
    lp.row_upper_ = np.concatenate(
        [np.full(total, highspy.kHighsInf), [(1.0 - goal.availability) * float(hours.sum())]]
    )
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = np.searchsorted(columns[order], np.arange(lp.num_col_ + 1))
    lp.a_matrix_.index_ = rows[order]
    lp.a_matrix_.value_ = values[order]
    return lp
