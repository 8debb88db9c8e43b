"""The shield keeps every deadline, whatever the market does and whoever proposes; nobody reads the future."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.deadline import POLICIES, Proposing, earliest_deadline_seconds, next_step, shielded_ticks
from policies.hazard import Belief, Hazards, ZoneBelief, bucket, hazards, life_hours, observe, share_up, unseen
from policies.market import IDLE, ON_DEMAND, Job, Market, Step, Zone

HOUR = 3600


def market(up: Sequence[bool], tick: int = 600) -> Market:
    zones = tuple(Zone(name=f"z{index}", price=1.0, up=now) for index, now in enumerate(up))
    return Market(tick_seconds=tick, on_demand_price=3.0, zones=zones)


def job(**fields: int) -> Job:
    base = {"work_seconds": 8 * HOUR, "deadline_seconds": 12 * HOUR, "overhead_seconds": 720}
    return Job(**{**base, **fields})


def play(
    start: Job, tick: int, propose: Proposing, weather: Callable[[int, Job], Sequence[bool]], zones: int = 1
) -> Job:
    """Live through the job tick by tick; `weather` may look at the job, so that it can be malicious."""
    now, belief = start, unseen(zones)
    for number in range(start.deadline_seconds // tick):
        if now.work_left_seconds <= 0:
            break
        up = weather(number, now)
        if now.running >= 0 and not up[now.running]:
            now = replace(now, running=IDLE, overhead_left_seconds=0)
        step = next_step(now, market(up, tick), belief, propose)
        assert step.run < 0 or up[step.run], "asked for a machine that is not there"
        assert step.hold_ticks >= 1 and step.reason
        overhead = now.overhead_left_seconds if step.run == now.running else now.overhead_seconds
        if step.run == IDLE:
            now = replace(now, running=IDLE, overhead_left_seconds=0)
        else:
            now = replace(
                now,
                running=step.run,
                done_seconds=now.done_seconds + max(0, tick - overhead),
                overhead_left_seconds=max(0, overhead - tick),
            )
        now = replace(now, elapsed_seconds=now.elapsed_seconds + tick)
        belief = observe(belief, up, tick / HOUR)
    return now


def reckless(job: Job, market: Market, belief: Belief) -> Step:
    """Does whatever is worst: leaves machines, waits, starts again."""
    up = [index for index, zone in enumerate(market.zones) if zone.up and index != job.running]
    wild = (job.elapsed_seconds // market.tick_seconds * 7919 + job.done_seconds) % 5
    if wild == 0 or (wild < 4 and not up):
        return Step(run=IDLE, reason="why not", hold_ticks=3)
    return Step(run=up[0] if wild < 4 else ON_DEMAND, reason="why not")


EVERYONE = {**POLICIES, "reckless": reckless}
SHAPES = st.tuples(
    st.integers(1, 10 * HOUR), st.integers(0, 6 * HOUR), st.integers(0, 2 * HOUR), st.sampled_from([32, 195, 600, 3600])
)


def feasible(shape: tuple[int, int, int, int]) -> tuple[Job, int]:
    work, spare, overhead, tick = shape
    deadline = earliest_deadline_seconds(work, overhead, tick) + spare
    return Job(work_seconds=work, deadline_seconds=deadline, overhead_seconds=overhead), tick


@pytest.mark.parametrize("name", [name for name in EVERYONE if name != "learned"])
@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, seed=st.integers(0, 1 << 30), zones=st.integers(1, 3))
def test_no_miss_on_random_weather(name: str, shape: tuple[int, int, int, int], seed: int, zones: int) -> None:
    start, tick = feasible(shape)
    chance = random.Random(seed)
    flip, up = chance.choice([0.02, 0.2, 0.5]), [chance.random() < 0.5 for _ in range(zones)]

    def weather(number: int, now: Job) -> list[bool]:
        for zone in range(zones):
            up[zone] ^= chance.random() < flip
        return list(up)

    assert play(start, tick, EVERYONE[name], weather, zones).work_left_seconds <= 0


def loss_after_each_start(number: int, now: Job) -> list[bool]:
    return [now.running != 0]


def loss_when_started_up(number: int, now: Job) -> list[bool]:
    return [not (now.running == 0 and now.overhead_left_seconds == 0)]


def loss_at_the_last_safe_tick(number: int, now: Job) -> list[bool]:
    return [now.slack_seconds > now.overhead_seconds + 2 * 600]


@pytest.mark.parametrize("weather", [loss_after_each_start, loss_when_started_up, loss_at_the_last_safe_tick])
@pytest.mark.parametrize("name", EVERYONE)
@pytest.mark.parametrize("spare", [0, 599, 1200, 4 * HOUR])
def test_no_miss_against_an_adversary(name: str, weather: Callable[[int, Job], list[bool]], spare: int) -> None:
    start = job(deadline_seconds=earliest_deadline_seconds(8 * HOUR, 720, 600) + spare)
    assert play(start, 600, EVERYONE[name], weather).work_left_seconds <= 0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1 << 30), spare=st.integers(0, 6 * HOUR), zones=st.integers(1, 3))
def test_the_learned_policy_does_not_miss_either(seed: int, spare: int, zones: int) -> None:
    chance = random.Random(seed)

    def weather(number: int, now: Job) -> list[bool]:
        return [chance.random() < 0.7 for _ in range(zones)]

    start = job(deadline_seconds=earliest_deadline_seconds(8 * HOUR, 720, 600) + spare)
    assert play(start, 600, POLICIES["learned"], weather, zones).work_left_seconds <= 0


@pytest.mark.parametrize(
    ("now", "run", "ticks"),
    [
        (job(), IDLE, 72 - 50),  # 72 ticks; 8 h + 0.2 h need 49.2 of them
        (job(deadline_seconds=50 * 600), IDLE, 0),
        (job(deadline_seconds=50 * 600 + 599), IDLE, 0),  # a part of a tick is no tick
        (job(deadline_seconds=50 * 600), 0, 0),
        (job(deadline_seconds=51 * 600), 0, 1 << 40),
        (
            job(deadline_seconds=52 * 600, overhead_seconds=1300),
            0,
            1,
        ),  # safe for a tick, but not to the end of its start
        (job(deadline_seconds=51 * 600, running=0), 0, 1 << 40),  # once it works, for good
        (job(deadline_seconds=50 * 600), ON_DEMAND, 1 << 40),
        (job(deadline_seconds=600, done_seconds=8 * HOUR - 60, running=0), 0, 1 << 40),  # it ends within the tick
    ],
)
def test_the_shield_to_the_tick(now: Job, run: int, ticks: int) -> None:
    assert shielded_ticks(now, market([True]), run) == ticks


def test_done_is_done() -> None:
    assert next_step(job(done_seconds=8 * HOUR), market([True]), unseen(1)).run == IDLE


def test_only_spot_when_it_is_always_there() -> None:
    for name, propose in POLICIES.items():
        if name != "on-demand":
            end = play(job(), 600, propose, lambda number, now: [True])
            assert end.running == 0 and end.elapsed_seconds == 30_000, name  # 8 h + one start, in whole ticks


def test_on_demand_from_the_last_moment_when_spot_never_comes() -> None:
    for name, propose in POLICIES.items():
        end = play(job(), 600, propose, lambda number, now: [False])
        assert end.running == ON_DEMAND and end.work_left_seconds <= 0, name


def test_same_arguments_same_step() -> None:
    belief = observe(observe(unseen(2), [True, False], 30.0), [False, True], 2.0)
    for propose in POLICIES.values():
        steps = {next_step(job(), market([False, True]), belief, propose) for _ in range(3)}
        assert len(steps) == 1


def test_a_cheaper_zone_wins_and_a_steadier_one() -> None:
    belief = observe(unseen(2), [True, True], 40.0)
    zones = (Zone(name="dear", price=1.5, up=True), Zone(name="cheap", price=0.9, up=True))
    cheap = Market(tick_seconds=600, on_demand_price=3.0, zones=zones)
    assert next_step(job(), cheap, belief).run == 1
    flaky = unseen(2)
    for _ in range(60):
        flaky = observe(observe(flaky, [False, True], 0.3), [True, True], 0.7)
    assert next_step(job(), market([True, True]), flaky).run == 1


def test_watching_at_once_or_tick_by_tick_teaches_the_same() -> None:
    states = [(True, 7.3), (False, 0.45), (True, 30.1), (False, 13.0), (True, 0.05)]
    at_once = by_tick = unseen(1)
    for up, hours in states:
        at_once = observe(at_once, [up], hours)
        for _ in range(50):
            by_tick = observe(by_tick, [up], hours / 50)
    one, other = at_once.zones[0], by_tick.zones[0]
    assert one.age_hours == pytest.approx(other.age_hours)
    for field in ("losses", "returns", "up_hours", "down_hours"):
        assert getattr(one, field) == pytest.approx(getattr(other, field)), field
    assert one.hazards.losses == pytest.approx(other.hazards.losses)


def test_hazards_follow_the_zone_and_forget() -> None:
    calm, wild = unseen(1), unseen(1)
    for _ in range(40):
        calm = observe(observe(calm, [True], 20.0), [False], 0.3)
        wild = observe(observe(wild, [True], 0.4), [False], 3.0)
    calm_now, wild_now = hazards(calm.zones[0]), hazards(wild.zones[0])
    assert share_up(calm_now) > 0.8 > 0.4 > share_up(wild_now)
    assert life_hours(calm_now.losses) > 3 * life_hours(wild_now.losses)
    reformed = wild
    for _ in range(40):
        reformed = observe(observe(reformed, [True], 20.0), [False], 0.3)
    assert life_hours(hazards(reformed.zones[0]).losses) > 2 * life_hours(wild_now.losses)


def test_a_zone_without_memory_is_known_as_one() -> None:
    """Spells at evenly spread quantiles of an exponential law, shuffled: young machines are no worse than old ones."""
    spells = [-5.0 * math.log(1 - (7 * n % 60 + 0.5) / 60) for n in range(60)]
    zone = unseen(1)
    for hours in spells:
        zone = observe(observe(zone, [True], hours), [False], hours / 10)
    found = hazards(zone.zones[0]).losses
    assert max(found[1:7]) < 2.5 * min(found[1:7]), "0.1 h to 8 h"
    assert max(Hazards().losses[1:7]) > 10 * min(Hazards().losses[1:7])


def test_what_has_lasted_lasts() -> None:
    lives = [life_hours(Hazards().losses, age) for age in (0.3, 1.0, 3.0, 10.0)]
    assert lives == sorted(lives)
    assert hazards(ZoneBelief()).losses == pytest.approx(Hazards().losses, rel=0.01)
    assert [bucket(age) for age in (0.0, 0.1, 0.99, 1.0, 99.0)] == [0, 1, 3, 4, 8]
