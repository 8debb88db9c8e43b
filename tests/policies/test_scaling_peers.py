"""How many, when: the cases in which other autoscalers fail, the rules one by one, and what never happens."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.decide import Policy, decide
from policies.lifecycle import OVER, Status
from policies.plan import Drain, Launch, Plan, Terminate
from policies.scaling import Replicas, Scaling, hold_down_seconds, target
from policies.snapshot import Instance, JobState, Load, Offer, Profile, Purchase, Snapshot
from policies.windows import Bounds, Schedule

NOW = datetime(2026, 3, 18, 2, 0, tzinfo=UTC)
MODEL, DIGEST = "ppocr", "first"
SPEEDS = {"T4": 2.0, "L4": 10.0}
MINUTE = timedelta(minutes=1)


def offer(
    gpu: str = "T4", purchase: Purchase = Purchase.ON_DEMAND, price: float = 1.0, capacity: int | None = None
) -> Offer:
    return Offer(
        id=f"{gpu}/{purchase}",
        provider="p",
        zone="z",
        instance_type="t",
        gpu=gpu,
        purchase=purchase,
        price_per_hour_micros=round(price * 1e6),
        currency="CNY",
        capacity=capacity,
    )


def speed(gpu: str) -> Profile:
    images = SPEEDS[gpu]
    return Profile(
        model=MODEL, gpu=gpu, precision="fp16", batch=1, images_per_second=images, p95_ms=1000 / images, source="bench"
    )


def policy(least: int, most: int, **more: object) -> Policy:
    schedule = Schedule(zone=ZoneInfo("Asia/Shanghai"), min=least, max=most)
    return Policy(**{"model": MODEL, "schedule": schedule, "providers": ("p",), "spot": True, **more})  # type: ignore[arg-type]


@dataclass
class Town:
    """Replicas that boot, a demand per second, and ticks: all that the ledger remembers, and no more."""

    policy: Policy
    offers: tuple[Offer, ...] = (offer(),)
    boot_seconds: float = 120.0
    now: datetime = NOW
    instances: dict[str, Instance] = field(default_factory=dict)
    minutes: dict[datetime, float] = field(default_factory=dict)
    decided: list[tuple[datetime, int]] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    measured: bool = True

    def snapshot(self, load: Load) -> Snapshot:
        window = self.now - timedelta(seconds=hold_down_seconds(self.policy.start_seconds))
        pairs = pairwise(self.decided)
        return Snapshot(
            now=self.now,
            deployment="ocr",
            digest=DIGEST,
            offers=self.offers,
            profiles=tuple(speed(gpu) for gpu in SPEEDS) if self.measured else (),
            instances=tuple(self.instances.values()),
            load=load,
            last_target=self.decided[-1][1] if self.decided else None,
            raised_at=max((at for (_, old), (at, new) in pairs if new > old and at > window), default=None),
        )

    def load(self, rate: float, waiting: int = 0) -> Load:
        window = self.now - timedelta(seconds=hold_down_seconds(self.policy.start_seconds))
        peak = max((images for minute, images in self.minutes.items() if minute >= window), default=0.0) / 60
        return Load(images_per_second=rate, peak_images_per_second=peak, waiting=waiting)

    def tick(self, load: Load) -> Plan:
        for one in [*self.instances.values()]:
            if one.status is Status.BOOTING and (self.now - one.requested_at).total_seconds() >= self.boot_seconds:
                self.instances[one.id] = replace(one, status=Status.READY, ready_at=self.now)
        plan = decide(self.snapshot(load), self.policy)
        self.decided.append((self.now, plan.target.replicas))
        self.targets.append(plan.target.replicas)
        for action in plan.actions:
            if isinstance(action, Launch):
                self.up(action.offer, Status.BOOTING)
            else:
                del self.instances[action.instance_id]
        return plan

    def up(self, of: Offer, status: Status = Status.READY) -> str:
        name = f"i{len(self.decided):04d}-{len(self.instances)}"
        self.instances[name] = Instance(
            id=name,
            offer_id=of.id,
            provider=of.provider,
            gpu=of.gpu,
            purchase=of.purchase,
            status=status,
            digest=DIGEST,
            requested_at=self.now,
        )
        return name

    def run(self, seconds: float, rate: Callable[[float], float] = lambda passed: 0.0, step: float = 10.0) -> None:
        """Ticks; `rate` is images a second by the seconds since this call."""
        started = self.now
        while (passed := (self.now - started).total_seconds()) < seconds:
            minute = self.now.replace(second=0)
            self.minutes[minute] = self.minutes.get(minute, 0.0) + rate(passed) * step
            self.tick(self.load(rate(passed)))
            self.now += timedelta(seconds=step)

    @property
    def ready(self) -> int:
        return sum(one.status is Status.READY for one in self.instances.values())


# the cases in which a peer fails


def test_bursts_of_four_minutes_on_and_one_off_scale_up_and_never_down() -> None:
    """A delay that wants five minutes above the mark before it adds one never sees them."""
    town = Town(policy(1, 6))
    town.run(60)
    town.run(40 * 60, lambda passed: 6.0 if passed % 300 < 240 else 0.0)
    needed = math.ceil(6.0 / (0.7 * 2.0))
    assert town.ready == needed
    up = town.targets.index(needed)
    assert up <= 8, "at once, not after a delay"
    assert set(town.targets[up:]) == {needed}, "and nobody leaves in the minute between"


def test_replicas_of_each_gpu_can_reach_zero_and_wake() -> None:
    """A count per GPU that is rounded up keeps one of each forever, or divides by a fleet of none."""
    town = Town(policy(0, 8), offers=(offer("T4"), offer("L4", price=9.0)))
    town.up(offer("T4"))
    town.up(offer("L4"))
    town.run(1800)
    assert town.instances == {} and town.targets[-1] == 0
    town.tick(town.load(0.0, waiting=1))
    assert [one.gpu for one in town.instances.values()] == ["T4"]
    town.run(300, lambda passed: 1.0)
    assert town.ready == 1


def test_from_none_to_as_many_as_it_takes_at_once() -> None:
    town = Town(policy(0, 8))
    town.run(30)
    town.tick(town.load(7.0))
    assert len(town.instances) == 5


def test_a_queue_asks_for_more_once_and_not_while_its_relief_is_starting() -> None:
    town = Town(policy(1, 8))
    town.run(300, lambda passed: 1.0)
    for _ in range(6):
        town.tick(town.load(1.0, waiting=400))
        town.now += timedelta(seconds=10)
    assert town.targets[-6:] == [4] * 6, "3.3 a second for a start's length, and not again while they start"


def test_dead_records_never_count() -> None:
    town = Town(policy(2, 4))
    for status in (*OVER, Status.LOST, Status.STOPPED, Status.DRAINING):
        town.up(offer(), status)
    plan = decide(town.snapshot(town.load(0.1)), town.policy)
    assert plan.target.replicas == 2
    assert sum(isinstance(action, Launch) for action in plan.actions) == 2
    quiet = decide(town.snapshot(Load()), town.policy)
    assert quiet.target.replicas == 2, "nor do they when there is no evidence"


statuses = st.sampled_from([Status.REQUESTED, Status.BOOTING, Status.READY])


@given(st.lists(st.tuples(statuses, st.integers(0, 600)), max_size=8), st.integers(0, 8), st.floats(0, 12))
def test_a_victim_is_never_ready_while_one_is_starting(fleet: list[tuple[Status, int]], most: int, rate: float) -> None:
    town = Town(policy(0, most))
    for status, age in fleet:
        name = town.up(offer(), status)
        town.instances[name] = replace(town.instances[name], requested_at=NOW - timedelta(seconds=age * 0.9))
    plan = decide(town.snapshot(town.load(rate)), town.policy)
    gone = {action.instance_id for action in plan.actions if isinstance(action, Drain | Terminate)}
    victims = [one.status for one in town.instances.values() if one.id in gone]
    left = [one.status for one in town.instances.values() if one.id not in gone]
    assert not (Status.READY in victims and any(status is not Status.READY for status in left))


def test_base_on_demand_with_a_minimum_of_0_stops_when_idle() -> None:
    """Base replicas are a kind, not a number: with nobody to serve there are none."""
    terms = (offer(), offer(purchase=Purchase.SPOT, price=0.3))
    town = Town(policy(0, 4, base_on_demand=1), offers=terms)
    town.run(600, lambda passed: 2.5)
    kinds = [one.purchase for one in town.instances.values()]
    assert sorted(kinds) == [Purchase.ON_DEMAND, Purchase.SPOT]
    town.run(1800)
    assert town.instances == {}


@given(st.lists(st.floats(0, 8), min_size=3, max_size=12), st.data())
def test_a_restart_at_a_later_version_changes_nothing(rates: list[float], data: st.DataObject) -> None:
    """What was decided is in the ledger, and a version that changes no replica's part is none of their business."""
    town = Town(policy(0, 6))
    for rate in rates:
        town.run(60, lambda passed, rate=rate: rate)  # type: ignore[misc]
    before = town.snapshot(town.load(rates[-1]))
    later = replace(
        town.policy, schedule=replace(town.policy.schedule), p95_ms=data.draw(st.none() | st.just(60_000.0))
    )
    assert decide(replace(before), later) == decide(before, town.policy)
    blind = decide(replace(before, load=Load()), later)  # the first tick after it: the door has not answered yet
    assert blind.target.replicas == town.decided[-1][1]
    forgetful = replace(before, load=Load(images_per_second=0.0, peak_images_per_second=0.0, complete=False))
    assert decide(forgetful, later).target.replicas == town.decided[-1][1]


# the rules, one by one

OPEN = Bounds(open=True, prewarm=False, min=0, max=20, reason="open")
T4 = Scaling(images_per_second=2.0, utilisation=0.7, start_seconds=120)


def fleet(ready: int, starting: int = 0, last: int | None = None, raised: float | None = None) -> Replicas:
    return Replicas(speeds=(2.0,) * (ready + starting), starting=starting, last_target=last, raised_seconds_ago=raised)


@pytest.mark.parametrize(
    ("load", "up", "scaling", "replicas", "words"),
    [
        (Load(images_per_second=0.0), fleet(0), T4, 0, "no load"),
        (Load(images_per_second=0.01), fleet(0), T4, 1, "0.01 images/s over 1.40 a replica"),
        (Load(images_per_second=1.4), fleet(1), T4, 1, "1.40 images/s"),
        (Load(images_per_second=1.41), fleet(1), T4, 2, "1.41 images/s"),
        (Load(images_per_second=1.0, peak_images_per_second=7.0), fleet(5, last=5), T4, 5, "7.00 images/s"),
        (Load(images_per_second=1.0, peak_images_per_second=1.0), fleet(5, last=5), T4, 1, "1.00 images/s"),
        (Load(images_per_second=1.0), fleet(3, last=3, raised=599), T4, 3, "the target rose 10 min ago, hold"),
        (Load(images_per_second=1.0), fleet(3, last=3, raised=600), T4, 1, "1.00 images/s"),
        (Load(images_per_second=0.0), fleet(3, last=3, raised=30), T4, 0, "no load"),
        (Load(images_per_second=1.0), fleet(3, last=3, raised=700), replace(T4, start_seconds=400), 3, "hold"),
        (Load(), fleet(2, 1, last=4), T4, 4, "no evidence of the load, hold"),
        (Load(), fleet(2, 1), T4, 3, "no evidence of the load, hold"),
        (Load(images_per_second=0.5, complete=False), fleet(3, last=3), T4, 3, "nobody watched for a while, hold"),
        (Load(images_per_second=9.0, complete=False), fleet(3, last=3), T4, 7, "9.00 images/s"),
        (Load(images_per_second=1.0, expected_images_per_second=4.0), fleet(1), T4, 3, "4.00 images/s over 1.40"),
        (Load(images_per_second=1.0, expected_images_per_second=4.0), fleet(1), T4, 3, "as on past days"),
        (Load(expected_images_per_second=4.0), fleet(1, last=1), T4, 1, "no evidence"),
        (Load(images_per_second=1.0, waiting=120), fleet(2, last=2), T4, 2, "images/s"),
        (Load(images_per_second=1.0, waiting=240), fleet(2, last=2), T4, 3, "images/s"),
        (Load(images_per_second=1.0, waiting=900), fleet(2, 1, last=3), T4, 3, "900 waiting, hold"),
        (Load(images_per_second=0.0, waiting=1), fleet(0), T4, 1, "0.00 images/s"),
        (Load(images_per_second=0.1, waiting=1), fleet(2, last=2), T4, 2, "1 waiting, hold"),
    ],
    ids=[
        "no load",
        "a little",
        "as much as one is planned with",
        "a little more",
        "inside the hold-down window",
        "long after",
        "just after it rose",
        "a window after it rose",
        "nobody asked for it since",
        "the window is twice the cold start",
        "no evidence: what was decided",
        "no evidence, nothing decided: those starting count",
        "an unwatched stretch: not down",
        "an unwatched stretch: up all the same",
        "expected: asked for before it comes",
        "expected: says so",
        "expectation is no evidence",
        "a queue that those up will have worked off",
        "a queue that they will not",
        "a queue whose relief is starting",
        "the first request wakes",
        "nobody leaves a queue",
    ],
)
def test_how_many(load: Load, up: Replicas, scaling: Scaling, replicas: int, words: str) -> None:
    decided = target(load, (), up, OPEN, scaling)
    assert (decided.replicas, words in decided.reason) == (replicas, True), decided.reason


@pytest.mark.parametrize(
    ("rate", "speeds", "following", "replicas"),
    [
        (3.5, (10.0, 2.0), 2.0, 2),
        (1.4, (10.0, 2.0), 2.0, 1),
        (8.4, (10.0, 2.0), 2.0, 2),
        (8.5, (10.0, 2.0), 2.0, 3),
        (15.0, (10.0, 2.0), 10.0, 3),
        (15.0, (), 10.0, 3),
        (15.0, (2.0,), None, 11),
        (1.5, (2.0, None), 2.0, 2),
    ],
    ids=[
        "both",
        "either",
        "just both",
        "one more slow one",
        "one more fast one",
        "of none",
        "next unknown",
        "unmeasured",
    ],
)
def test_mixed_speeds(rate: float, speeds: tuple[float | None, ...], following: float | None, replicas: int) -> None:
    up = Replicas(speeds=speeds, last_target=len(speeds))
    assert (
        target(Load(images_per_second=rate), (), up, OPEN, replace(T4, images_per_second=following)).replicas
        == replicas
    )


@pytest.mark.parametrize(
    ("waiting", "up", "replicas"),
    [
        (3, Replicas(speeds=(None,), last_target=1), 2),
        (3, Replicas(speeds=(None, None), starting=1, last_target=2), 2),
        (0, Replicas(speeds=(None, None), last_target=2), 2),
        (3, Replicas(), 1),
        (0, Replicas(speeds=(None, None, None), last_target=2), 2),
    ],
    ids=["one more", "one is starting", "none waits", "the first", "an outdated one beside its replacement"],
)
def test_without_a_measured_throughput(waiting: int, up: Replicas, replicas: int) -> None:
    unmeasured = replace(T4, images_per_second=None)
    assert target(Load(images_per_second=1.0, waiting=waiting), (), up, OPEN, unmeasured).replicas == replicas


def test_a_batch_wakes_one() -> None:
    jobs = (JobState(id=1, items_left=9),)
    assert target(Load(images_per_second=0.0), jobs, fleet(0), OPEN, T4).reason == "open; 9 batch items are waiting"


# what never happens

some_rates = st.none() | st.floats(0, 50)
loads = st.builds(
    Load,
    images_per_second=some_rates,
    peak_images_per_second=some_rates,
    expected_images_per_second=some_rates,
    waiting=st.integers(0, 500),
    complete=st.booleans(),
)
fleets = st.builds(
    lambda speeds, starting, last, raised: Replicas(
        speeds=speeds, starting=min(starting, len(speeds)), last_target=last, raised_seconds_ago=raised
    ),
    st.lists(st.none() | st.floats(0.1, 20), max_size=8).map(tuple),
    st.integers(0, 8),
    st.none() | st.integers(0, 12),
    st.none() | st.floats(0, 2000),
)
scalings = st.builds(Scaling, images_per_second=st.none() | st.floats(0.1, 20), start_seconds=st.floats(1, 900))


@given(loads, fleets, scalings, st.integers(0, 6), st.integers(0, 9))
def test_bounds_are_never_left(load: Load, up: Replicas, scaling: Scaling, least: int, more: int) -> None:
    bounds = replace(OPEN, min=least, max=least + more)
    assert least <= target(load, (), up, bounds, scaling).replicas <= least + more
    closed = Bounds(open=False, prewarm=False, min=0, max=0, reason="closed")
    assert target(load, (), up, closed, scaling).replicas == 0


@given(loads, fleets, scalings, st.floats(0, 50))
def test_more_load_never_means_fewer(load: Load, up: Replicas, scaling: Scaling, more: float) -> None:
    if load.images_per_second is None:
        return
    heavier = replace(load, images_per_second=load.images_per_second + more)
    assert target(heavier, (), up, OPEN, scaling).replicas >= target(load, (), up, OPEN, scaling).replicas


@given(loads, fleets, scalings)
def test_it_never_shrinks_in_the_dark_in_a_burst_or_before_a_queue(load: Load, up: Replicas, scaling: Scaling) -> None:
    decided = target(load, (), up, replace(OPEN, max=1000), scaling).replicas
    dark = (load.images_per_second is None and load.peak_images_per_second is None) or not load.complete
    raised = up.raised_seconds_ago
    asked = max(load.images_per_second or 0, load.peak_images_per_second or 0, load.expected_images_per_second or 0) > 0
    burst = asked and raised is not None and raised < hold_down_seconds(scaling.start_seconds)
    if dark or burst or load.waiting:
        assert decided >= up.held


@given(loads, fleets, scalings)
def test_who_stays_always_carries_the_demand(load: Load, up: Replicas, scaling: Scaling) -> None:
    """Whoever leaves: the slowest that stay, and as many new ones as are asked for, are enough."""
    if load.images_per_second is None or None in up.speeds or scaling.images_per_second is None:
        return
    decided = target(load, (), up, replace(OPEN, max=10_000), scaling).replicas
    slowest = sorted(speed for speed in up.speeds if speed is not None)[:decided]
    capacity = sum(slowest) + max(0, decided - len(slowest)) * scaling.images_per_second
    seen = max(load.images_per_second, load.peak_images_per_second or 0, load.expected_images_per_second or 0)
    if capacity < sum(up.speeds):  # type: ignore[arg-type]
        assert capacity * scaling.utilisation >= seen * (1 - 1e-6)
    if decided > max(up.held, len(up.speeds)):
        assert capacity * scaling.utilisation >= seen * (1 - 1e-6)


@given(st.lists(st.floats(0, 10), min_size=2, max_size=30), st.sampled_from([60.0, 240.0, 420.0]))
def test_a_steady_load_never_flaps(rates: list[float], boot: float) -> None:
    """Whatever came before: under a constant load the target settles, and goes down at most once a hold-down window."""
    town = Town(policy(0, 12, start_seconds=boot), boot_seconds=boot)
    for rate in rates[:-1]:
        town.run(60, lambda passed, rate=rate: rate, step=30)  # type: ignore[misc]
    town.run(3 * hold_down_seconds(boot), lambda passed: rates[-1], step=30)
    settled = town.targets[-40:]
    assert len(set(settled[-10:])) == 1
    rises = sum(after > before for before, after in pairwise(settled))
    assert rises == 0
    assert town.targets[-1] == (max(1, math.ceil(rates[-1] / 1.4 - 1e-9)) if rates[-1] else 0)


def test_a_queue_before_replicas_that_start_at_once() -> None:
    decided = target(
        Load(images_per_second=1.0, waiting=3), (), Replicas(), OPEN, Scaling(images_per_second=2.0, start_seconds=0.0)
    )
    assert decided.replicas >= 1
