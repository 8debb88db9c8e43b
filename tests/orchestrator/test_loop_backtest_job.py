"""The daemon moves a job as the backtest does: a trace replayed, and the same trace as a market under the real loop.

In the backtest a policy sees which zones are up in the coming tick; the daemon knows what it has tried. So the backtest
is played by the very policy that the daemon has, behind a veil: it is told what the daemon could know by then, and an
attempt in a zone that is down costs the tick in which it is refused. That tick of lag is inherent, and it is the only
one: a machine that is taken back is replaced in the tick in which it is gone.

What is left of a start differs by one tick, too: the daemon's overhead has a tick of margin for what is lost in the
middle of one, which a machine that starts already no longer needs. The deadlines here are none at which the shield
turns on that tick.
"""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from orchestrator.ledger import items, jobs
from orchestrator.ledger.jobs import ItemState
from orchestrator.providers.simulated import Outage
from orchestrator.simulation.backtest import Task, stretches
from orchestrator.simulation.traces import Trace
from policies import batch, outlook
from policies.hazard import Belief, unseen
from policies.lifecycle import Status
from policies.market import IDLE, ON_DEMAND, Job, Market, Step
from policies.outlook import Outlook
from policies.plan import Launch
from policies.work import PACE, TICK_SECONDS, overhead_seconds
from tests.orchestrator.scene import NOW, SPOT, Scene, always, offer

HOURS = 7
START_SECONDS = 80.0
SPEED = 2.0  # images a second, as measured; it reads as slowly as the promise counts on
WORK_SECONDS = 3 * 3600
PRICES = (0.3, 0.3)
NAMES = tuple(offer(zone, SPOT).id for zone in range(len(PRICES)))
MINUTE = timedelta(minutes=1)

#: minutes in which each zone has no spot machines, and in how many hours the work is due
COURSES = {
    "losses, and a gap of both": ((((0, 20), (90, 97), (150, 260)), ((40, 80), (200, 280))), (3.5, 4.5)),
    "gaps of both, on demand in between": (
        (((5, 40), (60, 100), (120, 160)), ((3, 50), (55, 105), (110, 170))),
        (3.5, 4.5),
    ),
    "never any": ((((0, 420),), ((0, 420),)), (3.5, 6.5)),
    "always all": (((), ()), (4.5,)),
    "gone in the last hour": ((((60, 420),), ((100, 420),)), (3.5, 4.5)),
}
RUNS = [
    pytest.param(down, hours, id=f"{name}, {hours} h", marks=[] if "gap" in name else [pytest.mark.slow])
    for name, (down, deadlines) in COURSES.items()
    for hours in deadlines
]

Modes = list[int]
Spells = tuple[tuple[tuple[int, int], ...], ...]


def trace(down: Spells) -> Trace:
    counts = np.ones((len(down), HOURS * 60), dtype=np.int64)
    for zone, spells in enumerate(down):
        for start, end in spells:
            counts[zone, start:end] = 0
    return Trace(names=tuple(f"sim-{zone}" for zone in range(len(down))), tick_seconds=TICK_SECONDS, counts=counts)


def task(deadline_hours: float) -> Task:
    return Task(
        work_seconds=WORK_SECONDS,
        deadline_seconds=round(deadline_hours * 3600),
        overhead_seconds=overhead_seconds(START_SECONDS),
        on_demand_price=1.0,
        spot_prices=PRICES,
    )


class Veiled:
    """The daemon's policy, told what it has tried: pools are asked by name, and what they do is heard afterwards."""

    def __init__(self) -> None:
        count = len(PRICES)
        self.known: Outlook | None = None
        self.lost_at: list[float | None] = [None] * count
        self.refused_at: list[float | None] = [None] * count
        self.asked, self.given, self.asked_at = IDLE, True, 0.0
        self.refusals: list[tuple[int, int]] = []

    def __call__(self, job: Job, market: Market, belief: Belief) -> Step:
        at = NOW.timestamp() + job.elapsed_seconds
        self._hear(job, at)
        seen = [*zip(self.lost_at, self.refused_at, strict=True)]
        known = outlook.first(NAMES, seen, at) if self.known is None else self.known
        self.known, _ = outlook.watched(known, seen, {NAMES[job.running]} if job.running >= 0 else set(), at)
        seen_up = (up is not False for up in self.known.up)
        zones = tuple(replace(zone, up=up) for zone, up in zip(market.zones, seen_up, strict=True))
        step = batch.propose(job, replace(market, zones=zones), outlook.guessed(self.known))
        self.asked, self.asked_at = step.run, at
        self.given = step.run < 0 or market.zones[step.run].up
        # what runs stays until its replacement is given
        return replace(step, run=step.run if self.given else job.running, hold_ticks=1)

    def _hear(self, job: Job, at: float) -> None:
        """What became of the last step; when the shield had another one, nothing was asked."""
        if self.asked < 0 or job.running == self.asked or (self.given and job.running == ON_DEMAND):
            return
        if self.given:
            self.lost_at[self.asked] = at
        else:
            self.refused_at[self.asked] = self.asked_at
            self.refusals.append((round((self.asked_at - NOW.timestamp()) / TICK_SECONDS), self.asked))


def replayed(down: Spells, deadline_hours: float) -> tuple[Modes, list[tuple[int, int]]]:
    """What the backtest runs in each minute, and what was asked of pools in vain."""
    veiled = Veiled()
    modes: Modes = []
    for one in stretches(trace(down), task(deadline_hours), veiled, 0, unseen(len(PRICES))):
        modes += [one.step.run] * one.ticks
    return modes, veiled.refusals


def looped(home: Path, down: Spells, deadline_hours: float) -> tuple[Modes, list[tuple[int, int]]]:
    """The same of the loop in the same world."""
    offers = (*(offer(zone, SPOT, round(1e6 * price)) for zone, price in enumerate(PRICES)), offer(9, price=1_000_000))
    scene = Scene(
        home,
        offers=offers,
        outages=tuple(
            Outage(zone=f"sim-{zone}", start=NOW + start * MINUTE, end=NOW + end * MINUTE)
            for zone, spells in enumerate(down)
            for start, end in spells
        ),
        boot_seconds=float(overhead_seconds(START_SECONDS)),
        notice_seconds=0.0,
        policy={"schedule": always(0, 1), "start_seconds": START_SECONDS},
    )
    scene.longest_tick = float(TICK_SECONDS)
    due = NOW + timedelta(hours=deadline_hours)
    with scene.ledger.write() as tx:
        names = [f"{number}.png" for number in range(round(WORK_SECONDS * SPEED * PACE))]
        job_id = jobs.create(tx, "ocr", home / "in", home / "out", [], names, NOW, due)
    modes: Modes = []
    refusals: list[tuple[int, int]] = []
    left = len(names)
    while left and scene.clock.now() < due:
        plan = scene.tick()
        place = {name: zone for zone, name in enumerate(NAMES)}
        live = sorted(scene.live(), key=lambda machine: machine.requested_at)
        modes.append(place.get(live[-1].offer_id, ON_DEMAND) if live else IDLE)
        asked = [place[one.offer.id] for one in plan.actions if isinstance(one, Launch) and one.offer.id in place]
        refusals += [(len(modes) - 1, zone) for zone in asked if zone != modes[-1]]
        left = read(scene, job_id, live[-1].status is Status.READY if live else False)
        scene.clock.sleep(TICK_SECONDS)
    scene.settle()
    return modes, refusals


def read(scene: Scene, job_id: int, ready: bool) -> int:
    """What the machine that was decided for reads until the next tick; returns what is left."""
    now, count = scene.clock.now(), round(SPEED * PACE * TICK_SECONDS) if ready else 0
    with scene.ledger.write() as tx:
        leased = items.lease(tx, job_id, "test", count, now, now + MINUTE) if count else ()
        items.settle(tx, "test", [items.Step(item=one, state=ItemState.DONE, failures=0) for one in leased], now)
        job = jobs.get(tx, job_id)
    assert job is not None
    return job.left


@pytest.mark.parametrize(("down", "deadline_hours"), RUNS)
def test_the_loop_runs_a_job_as_the_backtest_does(home: Path, down: Spells, deadline_hours: float) -> None:
    expected, in_vain = replayed(down, deadline_hours)
    modes, refused = looped(home, down, deadline_hours)
    assert modes == expected
    assert refused == in_vain
    assert len(modes) * TICK_SECONDS <= deadline_hours * 3600


def test_there_is_something_to_decide() -> None:
    """The courses make it use everything there is, and come back to spot from on demand."""
    modes, in_vain = replayed(COURSES["gaps of both, on demand in between"][0], 3.5)
    assert {*modes} == {IDLE, ON_DEMAND, 0, 1}
    assert (ON_DEMAND, 0) in pairwise(modes) or (ON_DEMAND, 1) in pairwise(modes)
    assert len(in_vain) > 10
