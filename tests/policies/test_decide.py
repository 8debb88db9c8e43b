"""decide(): from any state of the world to the one that is wanted, and then nothing more."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.budget import Brake, Budget
from policies.candidates import BACKOFF_LONGEST, backed_off_until
from policies.decide import Policy, decide
from policies.lifecycle import LIVE, OVER, Status
from policies.plan import Drain, Launch, Plan, Terminate
from policies.snapshot import Instance, Load, Offer, Profile, Purchase, Snapshot, Spend
from policies.windows import Override, Schedule, Window

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
MODEL = "ppocr"
SPEED = Profile(model=MODEL, gpu="T4", precision="fp32", batch=1, images_per_second=2.0, p95_ms=500, source="bench")
TICK = timedelta(seconds=5)


def offer(name: str = "a", **more: Any) -> Offer:
    fields = {
        "id": name,
        "provider": "cloud",
        "zone": name,
        "instance_type": "t",
        "gpu": "T4",
        "purchase": Purchase.ON_DEMAND,
        "price_per_hour_micros": 1_000_000,
        "currency": "CNY",
    }
    return Offer(**{**fields, **more})


def instance(name: str, status: Status = Status.READY, **more: Any) -> Instance:
    fields = {
        "id": name,
        "offer_id": "a",
        "provider": "cloud",
        "gpu": "T4",
        "purchase": Purchase.ON_DEMAND,
        "status": status,
        "digest": "new",
        "requested_at": NOW - timedelta(minutes=5),
        "launched_at": None if status is Status.REQUESTED else NOW - timedelta(minutes=5),
        "draining_at": NOW if status is Status.DRAINING else None,
        "in_flight": 0,
    }
    return Instance(**{**fields, **more})


def policy(least: int = 1, most: int = 4, **more: Any) -> Policy:
    schedule = Schedule(zone=ZoneInfo("UTC"), min=least, max=most)
    return Policy(**{"model": MODEL, "schedule": schedule, "providers": ("cloud",), **more})


def snapshot(*instances: Instance, **more: Any) -> Snapshot:
    fields = {
        "now": NOW,
        "deployment": "ocr",
        "digest": "new",
        "offers": (offer(),),
        "profiles": (SPEED,),
        "instances": instances,
        "load": Load(images_per_second=0.0, peak_images_per_second=0.0),
    }
    return Snapshot(**{**fields, **more})


def actions(plan: Plan) -> list[str]:
    return [
        f"launch {one.offer.id}" if isinstance(one, Launch) else f"{type(one).__name__.lower()} {one.instance_id}"
        for one in plan.actions
    ]


R, B, Q, D, L = Status.READY, Status.BOOTING, Status.REQUESTED, Status.DRAINING, Status.LOST
LONG_AGO = NOW - timedelta(hours=1)

SPOT_PRICE = offer("spot", purchase=Purchase.SPOT, price_per_hour_micros=300_000)
NEARLY_SPENT = Spend(month_micros=96, currency="CNY")
SPOT_ONLY_AT_95 = Budget(monthly_micros=100, at=((0.95, Brake.SPOT_ONLY),))
UNMEASURED = offer("new", gpu="L4")

CASES: dict[str, tuple[Snapshot, Policy, list[str]]] = {
    "the driver's long name of an allowed GPU": (
        snapshot(offers=(offer(gpu="NVIDIA Tesla T4"),)),
        policy(gpus=("T4",)),
        ["launch a"],
    ),
    "one on demand, one spot: whether it is given is known a moment later": (
        snapshot(offers=(offer(), SPOT_PRICE)),
        policy(2, spot=True, base_on_demand=1),
        ["launch spot", "launch a"],
    ),
    "spot only by budget goes before the base on demand": (
        snapshot(offers=(offer(), SPOT_PRICE), spend=NEARLY_SPENT),
        policy(2, spot=True, base_on_demand=1, limit=SPOT_ONLY_AT_95),
        ["launch spot", "launch spot"],
    ),
    "an unmeasured GPU is tried on one machine": (
        snapshot(offers=(UNMEASURED,)),
        policy(3, try_unmeasured=True),
        ["launch new"],
    ),
    "and on one only, while that one is up": (
        snapshot(instance("1", gpu="L4", offer_id="new"), offers=(UNMEASURED,)),
        policy(3, try_unmeasured=True),
        [],
    ),
    "nothing is there": (snapshot(), policy(2), ["launch a", "launch a"]),
    "one serves": (snapshot(instance("1")), policy(), []),
    "one is asked for": (snapshot(instance("1", Q)), policy(), []),
    "one boots": (snapshot(instance("1", B)), policy(), []),
    "one drains": (snapshot(instance("1", D, in_flight=1)), policy(), ["launch a"]),
    "one has drained": (snapshot(instance("1", D)), policy(0), ["terminate 1"]),
    "nobody knows whether it has": (snapshot(instance("1", D, in_flight=None)), policy(0), []),
    "it has drained for too long": (
        snapshot(instance("1", D, in_flight=3, draining_at=LONG_AGO)),
        policy(0),
        ["terminate 1"],
    ),
    "it is being ended": (snapshot(instance("1", D, terminating=True)), policy(0), []),
    "one is lost": (snapshot(instance("1", L)), policy(), ["terminate 1", "launch a"]),
    "surplus: who starts leaves first": (
        snapshot(instance("1"), instance("2", B), instance("3", Q)),
        policy(1, 1),
        ["terminate 2", "terminate 3"],
    ),
    "surplus: then the youngest": (
        snapshot(instance("1"), instance("2", requested_at=NOW)),
        policy(1, 1),
        ["drain 2"],
    ),
    "taken down": (
        snapshot(instance("1"), instance("2", B), instance("3", Q)),
        policy(wanted=False),
        ["terminate 2", "terminate 3", "drain 1"],
    ),
    "never ready": (
        snapshot(instance("1", B, launched_at=LONG_AGO, requested_at=LONG_AGO)),
        policy(),
        ["terminate 1", "launch a"],
    ),
    "never answered": (snapshot(instance("1", Q, requested_at=LONG_AGO)), policy(), ["terminate 1", "launch a"]),
    "never ready, but its provider cannot be reached": (
        snapshot(instance("1", B, launched_at=LONG_AGO), offers=(), unreachable=frozenset({"cloud"})),
        policy(),
        [],
    ),
    "silent for a moment": (snapshot(instance("1", silent_since=NOW - TICK)), policy(), []),
    "silent for long": (snapshot(instance("1", silent_since=LONG_AGO)), policy(), ["drain 1", "launch a"]),
    "taken back soon": (
        snapshot(instance("1", reclaim_at=NOW + TICK)),
        policy(),
        ["drain 1", "launch a"],
    ),
    "taken back while it boots: it is the provider's to end": (
        snapshot(instance("1", B, reclaim_at=NOW + TICK)),
        policy(),
        ["launch a"],
    ),
    "should have been taken back long ago": (
        snapshot(instance("1", D, reclaim_at=LONG_AGO), instance("2", B, reclaim_at=LONG_AGO)),
        policy(0),
        ["terminate 2", "terminate 1"],
    ),
    "outdated: the new one comes first": (snapshot(instance("1", digest="old")), policy(), ["launch a"]),
    "outdated: the new one serves": (
        snapshot(instance("1", digest="old"), instance("2")),
        policy(),
        ["drain 1"],
    ),
    "outdated before it was ready": (
        snapshot(instance("1", B, digest="old")),
        policy(),
        ["terminate 1", "launch a"],
    ),
    "outdated, no surge: it makes room": (
        snapshot(instance("1", digest="old"), instance("2", digest="old")),
        policy(2, surge=0),
        ["drain 1"],
    ),
    "outdated, no surge: only one at a time": (
        snapshot(instance("1", digest="old"), instance("2", B)),
        policy(2, surge=0),
        [],
    ),
    "no longer allowed": (snapshot(instance("1", provider="elsewhere")), policy(), ["launch a"]),
    "a preferred provider, though dearer": (
        snapshot(offers=(offer("cheap", provider="b", price_per_hour_micros=1), offer("dear", provider="a"))),
        policy(providers=("a", "b")),
        ["launch dear"],
    ),
    "at its capacity": (
        snapshot(
            instance("1", D, in_flight=1), offers=(offer(capacity=1), offer("b", price_per_hour_micros=2_000_000))
        ),
        policy(),
        ["launch b"],
    ),
    "no spot unless the spec says so": (snapshot(offers=(offer(purchase=Purchase.SPOT),)), policy(), []),
    "refused just now": (snapshot(offers=(offer(refusals=1, refused_at=NOW - TICK),)), policy(), []),
    "refused a while ago": (
        snapshot(offers=(offer(refusals=1, refused_at=NOW - timedelta(seconds=10)),)),
        policy(),
        ["launch a"],
    ),
    "refused in a future that was set back": (
        snapshot(offers=(offer(refusals=9, refused_at=NOW + timedelta(days=1)),)),
        policy(),
        ["launch a"],
    ),
    "a dollar is worth more than a yuan": (
        snapshot(offers=(offer("usd", price_per_hour_micros=900_000, currency="USD"), offer("cny"))),
        policy(currency="CNY", rates={"USD": 7}),
        ["launch cny"],
    ),
    "a currency without a rate cannot be compared": (
        snapshot(offers=(offer("usd", price_per_hour_micros=1, currency="USD"), offer("cny"))),
        policy(currency="CNY"),
        ["launch cny"],
    ),
    "the runaway bound": (snapshot(recent_launches=(NOW,) * 60), policy(), []),
    "launches of a future that was set back do not count": (
        snapshot(recent_launches=(NOW + timedelta(hours=1),) * 60),
        policy(),
        ["launch a"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_done(name: str) -> None:
    seen, wanted, expected = CASES[name]
    assert actions(decide(seen, wanted)) == expected


NIGHT = Schedule(
    zone=ZoneInfo("UTC"), windows=(Window(days=frozenset(range(7)), start_minute=22 * 60, end_minute=23 * 60),)
)
SOON = Schedule(
    zone=ZoneInfo("UTC"),
    windows=(Window(days=frozenset(range(7)), start_minute=12 * 60 + 9, end_minute=13 * 60, min=2, max=4),),
)


@pytest.mark.parametrize(
    ("seen", "done"),
    [
        (snapshot(instance("1"), last_target=1), []),
        (snapshot(instance("1", B), instance("2", reclaim_at=NOW), last_target=2), ["drain 2"]),
        (snapshot(instance("1"), instance("2"), instance("3"), last_target=3), ["drain 1"]),
        (snapshot(last_target=1), []),
        (snapshot(instance("1", digest="old"), last_target=1), ["drain 1"]),
        (snapshot(instance("1"), spend=Spend(month_micros=10, currency="CNY"), last_target=1), ["drain 1"]),
    ],
    ids=["who is up stays", "who is lost is not replaced", "surplus", "nobody is up", "an older spec", "no money"],
)
def test_minutes_before_an_opening_who_is_up_is_kept_and_nobody_is_launched(seen: Snapshot, done: list[str]) -> None:
    plan = decide(seen, policy(schedule=SOON, limit=Budget(monthly_micros=10)))
    assert actions(plan) == done
    assert not plan.hours.open
    hold = replace(SOON, override=Override(state="closed", until=NOW + timedelta(hours=2)))
    assert not [one for one in decide(seen, policy(schedule=hold)).actions if isinstance(one, Launch)]
    assert decide(seen, policy(schedule=hold)).target.replicas == 0


def test_the_reason_says_for_what_a_machine_is_kept() -> None:
    plan = decide(snapshot(instance("1"), last_target=1), policy(schedule=SOON))
    assert plan.target.reason.startswith("closed until Fri 2026-11-20 12:09 UTC, who is up is kept for it")


def test_the_door_says_why_it_is_closed_and_until_when() -> None:
    opens_at = datetime(2026, 11, 20, 22, tzinfo=UTC)
    hours = decide(snapshot(), policy(schedule=NIGHT)).hours
    assert (hours.open, hours.opens_at) == (False, opens_at)
    assert "closed until Fri 2026-11-20 22:00" in hours.reason
    hours = decide(snapshot(), policy(schedule=NIGHT, wanted=False)).hours
    assert (hours.open, hours.opens_at, hours.reason) == (False, None, "taken down")
    held = replace(NIGHT, override=Override(state="open", until=opens_at))
    assert decide(snapshot(), policy(schedule=held)).hours.open
    spent = snapshot(spend=Spend(month_micros=10, currency="CNY"))
    hours = decide(spent, policy(limit=Budget(monthly_micros=10))).hours
    assert (hours.open, hours.opens_at, hours.reason) == (False, None, "monthly budget 100 % spent: stop")


def test_back_off_doubles_up_to_a_limit() -> None:
    waits = [backed_off_until(offer(refusals=count, refused_at=NOW)) for count in (1, 2, 3, 6, 100)]
    seconds = [(until - NOW).total_seconds() for until in waits if until is not None]
    assert seconds == [10, 20, 40, 320, BACKOFF_LONGEST.total_seconds()]
    assert backed_off_until(offer()) is None


STATUSES = st.sampled_from([one for one in Status if one is not Status.STOPPED])
MOMENTS = st.none() | st.integers(-4000, 4000).map(lambda seconds: NOW + timedelta(seconds=seconds))


@st.composite
def instances(draw: st.DrawFn) -> tuple[Instance, ...]:
    return tuple(
        instance(
            str(number),
            draw(STATUSES),
            digest=draw(st.sampled_from(["old", "new"])),
            offer_id=draw(st.sampled_from(["a", "b"])),
            provider=draw(st.sampled_from(["cloud", "cloud", "gone"])),
            requested_at=NOW - timedelta(seconds=draw(st.integers(0, 2000))),
            draining_at=NOW - timedelta(seconds=draw(st.integers(0, 100))),
            reclaim_at=draw(st.none() | MOMENTS),
            silent_since=draw(MOMENTS),
            in_flight=draw(st.sampled_from([None, 0, 2])),
            terminating=draw(st.booleans()),
        )
        for number in range(draw(st.integers(0, 7)))
    )


def sound(up: tuple[Instance, ...], plan: Plan) -> tuple[int, int]:
    """Nobody is sent away twice or out of turn. Returns how many are launched, and how many stay."""
    by_id = {one.id: one for one in up}
    touched = [one.instance_id for one in plan.actions if not isinstance(one, Launch)]
    assert len(touched) == len(set(touched))
    for action in plan.actions:
        if isinstance(action, Drain):
            assert by_id[action.instance_id].status is Status.READY
        elif isinstance(action, Terminate):
            assert by_id[action.instance_id].status not in {Status.READY, *OVER}
            assert not by_id[action.instance_id].terminating
    usable = [one for one in up if one.status in LIVE and not one.terminating and one.reclaim_at is None]
    left = [one for one in usable if one.id not in touched]
    return sum(isinstance(one, Launch) for one in plan.actions), len(left)


@given(instances(), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_plan_is_sound(up: tuple[Instance, ...], least: int, more: int, surge: int, wanted: bool) -> None:
    seen = snapshot(*up, offers=(offer(), offer("b", capacity=2)))
    asked = policy(least, max(1, least + more), surge=surge, wanted=wanted)
    plan = decide(seen, asked)
    assert plan == decide(seen, asked)
    launches, left = sound(up, plan)
    assert launches <= plan.target.replicas <= max(1, least + more)
    if launches:
        assert launches + left <= plan.target.replicas + surge


@given(instances(), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), st.booleans())
@settings(max_examples=200, deadline=None)
def test_from_anywhere_it_gets_where_it_should_be_and_stays(
    up: tuple[Instance, ...], least: int, more: int, surge: int, wanted: bool
) -> None:
    """In a world that does at once what it is told, whatever it was like before."""
    asked = policy(least, max(1, least + more), surge=surge, wanted=wanted)
    seen = snapshot(*up)
    idle = 0
    for step in range(400):
        plan = decide(seen, asked)
        idle = 0 if plan.actions else idle + 1
        seen = obeyed(seen, plan, step)
    assert idle > 10, actions(plan)
    left = [one for one in seen.instances if one.status not in OVER]
    assert [one.status for one in left] == [Status.READY] * plan.target.replicas
    assert all(one.digest == "new" and one.provider == "cloud" for one in left)


def obeyed(seen: Snapshot, plan: Plan, step: int) -> Snapshot:
    """The world one tick later: launches are ready, drains are empty, what was ended or reclaimed is gone."""
    now = seen.now + timedelta(seconds=20)
    drained = {one.instance_id for one in plan.actions if isinstance(one, Drain)}
    ended = {one.instance_id for one in plan.actions if isinstance(one, Terminate)}
    after = []
    for one in seen.instances:
        if one.id in ended or one.terminating or (one.reclaim_at is not None and one.reclaim_at <= now):
            continue
        if one.id in drained:
            one = replace(one, status=Status.DRAINING, draining_at=now, in_flight=0)
        elif one.status is Status.REQUESTED:
            one = replace(one, status=Status.BOOTING, launched_at=now)
        elif one.status is Status.BOOTING:
            one = replace(one, status=Status.READY, silent_since=None)
        elif one.status is Status.READY:
            one = replace(one, silent_since=None)
        after.append(one)
    launched = [one for one in plan.actions if isinstance(one, Launch)]
    new = [
        instance(
            f"{step}-{number}",
            Status.REQUESTED,
            offer_id=one.offer.id,
            purchase=one.offer.purchase,
            requested_at=seen.now,
        )
        for number, one in enumerate(launched)
    ]
    return replace(seen, now=now, instances=(*after, *new))


def test_while_what_is_missing_can_be_had_nowhere_each_tick_says_why() -> None:
    """The placement policy waits for the offer on demand to be asked again: it wants nothing, and misses nothing."""
    asked = policy(2, spot=True, base_on_demand=1)
    pool = offer("pool", purchase=Purchase.SPOT, price_per_hour_micros=300_000)
    refused = replace(offer("dear"), refusals=3, refused_at=NOW - timedelta(seconds=1))
    up = instance("1", offer_id="pool", purchase=Purchase.SPOT)
    seen = snapshot(up, offers=(pool, refused))
    for _ in range(3):
        plan = decide(seen, asked)
        assert not plan.actions
        assert any(note.startswith("dear ") for note in plan.notes), plan.notes
        seen = replace(seen, memory={**seen.memory, **plan.memory}, now=seen.now + timedelta(seconds=1))
