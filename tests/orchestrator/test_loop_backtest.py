"""The daemon decides as the backtest does: a trace replayed, and the same trace as a market under the real loop."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from orchestrator.providers.simulated import Outage
from orchestrator.simulation.serving import STEP_SECONDS, service_of, stretches
from orchestrator.simulation.traces import Trace
from policies.placement import POLICIES
from policies.plan import Launch
from policies.serving import ON_DEMAND, Decision, Fleet, Goal, answered_first
from tests.orchestrator.scene import NOW, SPOT, Scene, always, offer

HOURS = 8
#: minutes in which each zone has no spot machines
DOWN = (((0, 20), (150, 152), (290, 400)), ((90, 97), (200, 330)), ((40, 41), (300, 480)))

#: what a decision does, by pool: launches, and replicas that are stopped
Moves = tuple[Counter[int], Counter[int]]


def trace() -> Trace:
    counts = np.ones((len(DOWN), HOURS * 60), dtype=np.int64)
    for zone, spells in enumerate(DOWN):
        for start, end in spells:
            counts[zone, start:end] = 0
    return Trace(names=tuple(f"sim-{zone}" for zone in range(len(DOWN))), tick_seconds=60, counts=counts)


def outages() -> tuple[Outage, ...]:
    minute = timedelta(minutes=1)
    return tuple(
        Outage(zone=f"sim-{zone}", start=NOW + start * minute, end=NOW + end * minute)
        for zone, spells in enumerate(DOWN)
        for start, end in spells
    )


def replayed(policy: str) -> dict[int, Moves]:
    """What the backtest decides, by minute, where it does anything."""
    found: dict[int, Moves] = {}

    def overheard(fleet: Fleet, goal: Goal, memory: object) -> Decision:
        decision = answered_first(POLICIES[policy](fleet, goal, memory))
        pools = {one.id: one.pool for one in fleet.replicas}
        launched = Counter(one.pool for one in decision.launches)
        stopped = Counter(pools[one.id] for one in decision.stops)
        if launched or stopped:
            found[round(fleet.now / STEP_SECONDS)] = (launched, stopped)
        return decision

    service = service_of(trace(), replicas=4, cold_start_seconds=180, spot_ratio=0.3, availability=0.995)
    for _ in stretches(trace(), replace(service, answers_at_once=True), overheard):
        pass
    return found


def looped(home: Path, policy: str) -> dict[int, Moves]:
    """What the loop decides in the same world."""
    pools = tuple(offer(zone, SPOT, 300_000) for zone in range(len(DOWN)))
    place = {pool.id: at for at, pool in enumerate(pools)}
    scene = Scene(
        home,
        offers=(*pools, offer(9, price=1_000_000)),
        outages=outages(),
        boot_seconds=180.0,
        notice_seconds=0.0,
        policy={"schedule": always(4, 40), "placing": policy, "availability": 0.995, "start_seconds": 180.0},
    )
    scene.longest_tick = float(STEP_SECONDS)
    found: dict[int, Moves] = {}
    leaving: set[str] = set()
    for minute in range(HOURS * 60):
        plan = scene.tick()
        machines = {one.id: one for one in scene.machines(over=True)}
        gone = [one.instance_id for one in plan.actions if not isinstance(one, Launch)]
        stopped = Counter(place.get(machines[name].offer_id, ON_DEMAND) for name in gone if name not in leaving)
        launched = Counter(place.get(one.offer.id, ON_DEMAND) for one in plan.actions if isinstance(one, Launch))
        leaving.update(gone)
        if launched or stopped:
            found[minute] = (launched, stopped)
        scene.clock.sleep(STEP_SECONDS)
    scene.settle()
    return found


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in POLICIES if name != "hazard"]


@pytest.mark.parametrize("policy", ["hazard", *OTHERS])
def test_the_loop_decides_as_the_backtest_does(home: Path, policy: str) -> None:
    expected = replayed(policy)
    assert looped(home, policy) == expected
    assert len(expected) > (12 if policy == "hazard" else 0)
