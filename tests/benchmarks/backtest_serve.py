"""How cheaply the serving policies keep their availability, and how fast they are replayed.

The table needs the public traces in ../shared/data/traces; the speeds run anywhere.
"""

import time
from pathlib import Path

import numpy as np

from orchestrator.simulation import serving
from orchestrator.simulation.serving_bound import bound
from orchestrator.simulation.synthetic import spells
from orchestrator.simulation.traces import Trace, load
from policies.placement import POLICIES

TRACES = Path(__file__).resolve().parents[2] / "../shared/data/traces"
#: Simulated hours per second that a replay reaches at least, on one modest core.
FLOOR = 500
#: Files, cold start in seconds, goals.
ROWS = (
    ("availability/1-node/aws-02-15-2023", 180, (0.99, 0.992, 0.994, 0.995)),
    ("preemption/4-node/aws-08-03-2023", 180, (0.98, 0.99, 0.992)),
    ("availability/1-node/aws-02-15-2023", 600, (0.98, 0.985, 0.99, 0.993)),
)


def synthetic(days: int) -> Trace:
    ticks = days * 86400 // 195
    rows = [
        spells(mean_up_hours=6, mean_down_hours=2, heavy_tailed=True, ticks=ticks, tick_seconds=195, seed=seed)
        for seed in range(6)
    ]
    return Trace(names=tuple(f"zone {n}" for n in range(6)), tick_seconds=195, counts=np.array(rows))


def speeds() -> None:
    print("simulated hours per second, 6 zones, 195 s ticks; time for twice the days")
    for policy in POLICIES:
        seconds = []
        for days in (20, 40):
            trace = synthetic(days)
            asked = serving.service_of(trace, replicas=4, cold_start_seconds=180, spot_ratio=0.3)
            began = time.perf_counter()
            serving.replay(trace, asked, policy)
            seconds.append(time.perf_counter() - began)
        rate = 40 * 24 / seconds[1]
        assert rate >= FLOOR, f"{policy}: {rate:.0f} h/s is below {FLOOR}"
        print(f"  {policy:12} {rate:12,.0f} h/s, x{seconds[1] / seconds[0]:.1f}")


def table() -> None:
    print("cost @ availability (capacity, worst hour), 4 replicas, spot 0.3; notice off | 120 s | omniscient bound")
    for folder, cold, goals in ROWS:
        trace = load(sorted((TRACES / folder).glob("*.json")))
        print(f"{folder}, cold start {cold} s")
        for policy, goal in (*(("hazard", goal) for goal in goals), *((name, 0.99) for name in list(POLICIES)[1:])):
            cells = []
            for notice in (0, 120):
                asked = serving.service_of(
                    trace,
                    replicas=4,
                    cold_start_seconds=cold,
                    spot_ratio=0.3,
                    notice_seconds=notice,
                    availability=goal,
                )
                one = serving.replay(trace, asked, policy)
                cells.append(
                    f"{one.relative_cost:.4f} @ {one.availability:.2%} ({one.capacity:.2%}, {one.worst_hour:.0%})"
                )
            name = f"{policy} {goal:.1%}" if policy == "hazard" else policy
            print(f"  {name:14} {' | '.join(cells)} | {bound(trace, asked):.3f}", flush=True)


def main() -> None:
    speeds()
    if TRACES.is_dir():
        table()
    else:
        print("the public spot traces are not on this machine: no table")


if __name__ == "__main__":
    main()
