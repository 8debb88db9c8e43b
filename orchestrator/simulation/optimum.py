"""The offline optimum: what a job would have cost somebody who knew the trace. The bound every backtest prints."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def optimal_cost(
    up: NDArray[np.bool_],
    *,
    tick_seconds: int,
    work_seconds: int,
    overhead_seconds: int,
    on_demand_price: float,
    spot_prices: Sequence[float],
) -> float:
    """The least cost of the work within the ticks of `up` [zone, tick], or inf if it does not fit. Prices are per hour.

    Exact dynamic program over (tick, what runs, slack used), slack in units of gcd(tick, overhead): all times of the
    model are whole multiples of it, so nothing is rounded. An overhead is taken out of the slack at the start; that
    is exact because an optimum never pays for a start that does not finish: waiting would cost nothing and lose as
    little.
    """
    zones, ticks = up.shape
    most_slack = ticks * tick_seconds - work_seconds
    if most_slack < 0:
        return math.inf
    unit = math.gcd(tick_seconds, overhead_seconds)
    units = most_slack // unit + 1
    idle, start = tick_seconds // unit, overhead_seconds // unit
    on_demand = on_demand_price * tick_seconds / 3600
    spot = [price * tick_seconds / 3600 for price in spot_prices]
    # Cost to go by [what runs, slack used]: a row a zone, on-demand, nothing. Beyond `units` the deadline is lost.
    cost = np.full((zones + 2, units + max(idle, start)), np.inf)
    cost[:, :units] = 0.0
    later = np.empty(units)
    for tick in range(ticks - 1, -1, -1):
        fresh = cost[zones + 1, idle : idle + units].copy()
        np.minimum(fresh, cost[zones, start : start + units] + on_demand, out=fresh)
        here = [zone for zone in range(zones) if up[zone, tick]]
        for zone in here:
            np.minimum(fresh, np.add(cost[zone, start : start + units], spot[zone], out=later), out=fresh)
        for zone in here:
            np.minimum(fresh, np.add(cost[zone, :units], spot[zone], out=later), out=cost[zone, :units])
        for zone in set(range(zones)).difference(here):
            cost[zone, :units] = fresh
        np.minimum(fresh, np.add(cost[zones, :units], on_demand, out=later), out=cost[zones, :units])
        cost[zones + 1, :units] = fresh
        done = (tick * tick_seconds - work_seconds) // unit
        if done >= 0:
            cost[:, : done + 1] = 0.0
    return float(cost[zones + 1, 0])
