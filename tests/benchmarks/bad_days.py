"""How many bad days a core lives through in a second, and what a tick with all its invariants costs."""

import time

from orchestrator.simulation.bad_day import ALL
from orchestrator.simulation.trial import live

SEEDS = range(1, 41)


def main() -> None:
    live(0, ALL)  # what is made once is not counted
    started, ticks = time.process_time(), 0
    for seed in SEEDS:
        outcome, _ = live(seed, ALL)
        ticks += outcome.ticks
    seconds = time.process_time() - started
    print(f"{len(SEEDS)} days, {ticks} ticks: {len(SEEDS) / seconds:.2f} days a second of processor time")
    print(f"{1000 * seconds / ticks:.1f} ms a tick, every invariant included")
