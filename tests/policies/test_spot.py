"""decide() with spot offers: sound from anywhere, still once there, whatever policy places the replicas."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.decide import Policy, decide
from policies.lifecycle import LIVE, OVER, Status
from policies.placement import POLICIES
from policies.plan import Drain, Launch, Plan
from policies.snapshot import Instance, Purchase, Snapshot
from tests.policies.test_decide import NOW, actions, instance, obeyed, offer, policy, snapshot, sound

SPOT, STEADY = Purchase.SPOT, Purchase.ON_DEMAND
A = offer("a", purchase=SPOT, price_per_hour_micros=300_000)
B = offer("b", purchase=SPOT, price_per_hour_micros=300_000)
DEAR = offer("dear")
OFFERS = (A, B, DEAR)
SECOND = timedelta(seconds=1)


def spot(least: int = 1, most: int = 4, **more: object) -> Policy:
    return policy(least, most, spot=True, **more)


def after(seen: Snapshot, plan: Plan, **more: object) -> Snapshot:
    """The same world a second later, with what the plan wants to be remembered, as the ledger gives it back."""
    memory = json.loads(json.dumps({**seen.memory, **plan.memory}))
    return replace(seen, now=seen.now + SECOND, memory=memory, **more)


def held(
    name: str, of: str = "a", purchase: Purchase = SPOT, status: Status = Status.READY, **more: object
) -> Instance:
    return instance(name, status, offer_id=of, purchase=purchase, **more)


def test_the_faster_machine_at_the_same_price_is_the_better_pool() -> None:
    quick = offer("quick", purchase=SPOT, gpu="L4", price_per_hour_micros=300_000)
    profile = replace(snapshot().profiles[0], gpu="L4", images_per_second=8.0)
    seen = snapshot(offers=(A, DEAR, quick), profiles=(*snapshot().profiles, profile))
    launched = [one.offer.id for one in decide(seen, spot()).actions if isinstance(one, Launch)]
    assert launched[0] == "quick"
    assert "a" not in launched


def test_the_payer_is_told_what_the_next_best_would_cost() -> None:
    (launch,) = (one for one in decide(snapshot(offers=(A, DEAR)), spot()).actions if isinstance(one, Launch))
    assert launch.reason.endswith("losses per hour expected, 30% of the price on demand")
    (alone,) = (one for one in decide(snapshot(offers=(A,)), spot()).actions if isinstance(one, Launch))
    assert "on demand" not in alone.reason


def test_spot_dearer_than_on_demand_is_not_taken() -> None:
    seen = snapshot(offers=(replace(A, price_per_hour_micros=1_500_000), DEAR))
    assert actions(decide(seen, spot())) == ["launch dear"]


def test_an_unmeasured_pool_is_tried_with_one_machine_where_nothing_else_is_known() -> None:
    new = replace(A, gpu="L4")
    assert actions(decide(snapshot(offers=(new,)), spot(3))) == []
    assert actions(decide(snapshot(offers=(new,)), spot(3, try_unmeasured=True))) == ["launch a"]
    assert "launch a" not in actions(decide(snapshot(offers=(new, DEAR)), spot(3, try_unmeasured=True)))


def test_a_pool_that_is_no_longer_on_offer_is_left_when_others_serve() -> None:
    seen = snapshot(instance("1", offer_id="gone", purchase=SPOT), offers=OFFERS)
    plan = decide(seen, spot())
    assert not any(isinstance(one, Drain) for one in plan.actions)
    assert all(one.offer.id != "gone" for one in plan.actions if isinstance(one, Launch))


def test_a_refusal_that_was_there_before_the_first_look_teaches_nothing() -> None:
    resting = replace(A, refusals=3, refused_at=NOW - SECOND)
    seen = snapshot(offers=(resting, DEAR))
    plan = decide(seen, spot())
    assert "launch a" in actions(plan)
    later = after(seen, plan, offers=(replace(resting, refused_at=NOW + SECOND / 2), DEAR))
    assert "launch a" not in actions(decide(later, spot()))


def test_another_policy_starts_without_the_memory_of_the_first() -> None:
    seen = snapshot(offers=OFFERS)
    for name in (*POLICIES, *reversed(POLICIES)):
        plan = decide(seen, spot(placing=name))
        assert plan == decide(seen, spot(placing=name))
        seen = after(seen, plan)


def test_the_runaway_bound_leaves_room_for_what_cannot_be_refused() -> None:
    bound = spot(2, 4).launches_per_hour(4)
    seen = snapshot(offers=OFFERS, recent_launches=(NOW,) * (bound - 4))
    assert set(actions(decide(seen, spot(2, 4)))) == {"launch dear"}
    seen = snapshot(offers=OFFERS, recent_launches=(NOW,) * bound)
    assert actions(decide(seen, spot(2, 4))) == []


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_remembered_survives_json(name: str) -> None:
    seen = snapshot(offers=OFFERS)
    plan = decide(seen, spot(2, 4, placing=name))
    kept = json.loads(json.dumps(plan.memory))
    again = decide(replace(seen, memory=kept), spot(2, 4, placing=name))
    assert again.memory == {}, "what is known already is not written again"


MACHINES = st.lists(
    st.builds(
        dict,
        status=st.sampled_from([one for one in Status if one is not Status.STOPPED]),
        digest=st.sampled_from(["old", "new", "new"]),
        pool=st.sampled_from(["a", "b", "dear", "gone"]),
        requested_at=st.integers(0, 4000).map(lambda ago: NOW - ago * SECOND),
        reclaim_at=st.none() | st.none() | st.integers(-300, 120).map(lambda ahead: NOW + ahead * SECOND),
        rebalance_at=st.none() | st.integers(-60, 4000).map(lambda ago: NOW - ago * SECOND),
        silent_since=st.none() | st.integers(0, 100).map(lambda ago: NOW - ago * SECOND),
        terminating=st.booleans(),
    ),
    max_size=8,
)


def fleet(drawn: list[dict[str, object]]) -> tuple[Instance, ...]:
    made = []
    for number, one in enumerate(drawn):
        pool = str(one.pop("pool"))
        purchase = STEADY if pool == "dear" else SPOT
        if purchase is STEADY:
            one["reclaim_at"] = one["rebalance_at"] = None
        if one["rebalance_at"] is not None and one["status"] is not Status.REQUESTED:
            one["launched_at"] = NOW - timedelta(hours=2)
        made.append(instance(str(number), one.pop("status"), offer_id=pool, purchase=purchase, **one))  # type: ignore[arg-type]
    return tuple(made)


NAMES = st.sampled_from(["hazard", "hazard", *POLICIES])


@given(MACHINES.map(fleet), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), NAMES, st.booleans())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_plan_is_sound(up: tuple[Instance, ...], least: int, more: int, surge: int, name: str, guard: bool) -> None:
    seen = snapshot(*up, offers=OFFERS)
    asked = spot(least, max(1, least + more), surge=surge, placing=name, guard=guard, base_on_demand=min(1, least))
    plan = decide(seen, asked)
    assert plan == decide(seen, asked)
    launches, left = sound(up, plan)
    if launches:
        assert launches + left <= max(1, least + more) + surge
    going = {one.offer_id for one in up if one.reclaim_at is not None and one.status in (*LIVE, Status.DRAINING)}
    launched = {one.offer.id for one in plan.actions if isinstance(one, Launch)}
    assert name != "hazard" or not launched & going


@given(MACHINES.map(fleet), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), NAMES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_from_anywhere_it_gets_where_it_should_be_and_stays(
    up: tuple[Instance, ...], least: int, more: int, surge: int, name: str
) -> None:
    """In a world that does at once what it is told, whatever it was like before."""
    asked = spot(least, max(1, least + more), surge=surge, placing=name)
    seen = snapshot(*up, offers=OFFERS)
    idle, fewest = 0, 99
    for step in range(200):
        plan = decide(seen, asked)
        idle = 0 if plan.actions else idle + 1
        memory = json.loads(json.dumps({**seen.memory, **plan.memory}))
        seen = replace(obeyed(seen, plan, step), memory=memory)
        if step > 120:
            fewest = min(fewest, sum(one.status is Status.READY for one in seen.instances))
    assert idle > 10, actions(plan)
    left = [one for one in seen.instances if one.status not in OVER]
    assert {one.status for one in left} <= {Status.READY}
    assert fewest >= plan.target.replicas
    assert all(one.digest == "new" for one in left)
    if plan.target.replicas == 0:
        assert not left


def test_a_full_pool_is_rested_from_however_long_ago_it_took_a_machine_back() -> None:
    """Found by a bad day: with nothing on demand, a pool that holds one of ours and was full was asked each second."""
    lost = replace(A, lost_at=NOW)
    seen = snapshot(offers=(A,))
    seen = after(seen, decide(seen, spot(2)), offers=(lost,))
    seen = after(seen, decide(seen, spot(2)))
    seen = replace(seen, now=NOW + timedelta(hours=5), instances=(held("1"),))
    plan = decide(seen, spot(2))
    assert actions(plan) == ["launch a"]
    refused = replace(lost, refusals=1, refused_at=seen.now)
    asked = 0
    for _ in range(60):
        seen = after(seen, plan, offers=(refused,))
        plan = decide(seen, spot(2))
        if plan.actions:
            asked += 1
            refused = replace(refused, refusals=refused.refusals + 1, refused_at=seen.now)
    assert asked <= 3  # not each second


def test_more_than_may_be_up_leave_whatever_the_placement_would_keep() -> None:
    """Found by a bad day: the maximum was lowered under way, and the spot policy kept its spare."""
    careful = {"availability": 0.999}
    seen = snapshot(held("1"), held("2", "b"), offers=OFFERS)
    for _ in range(3):
        seen = after(seen, decide(seen, spot(1, 2, **careful)))
    assert actions(decide(seen, spot(1, 2, **careful))) == [], "it keeps a spare"
    sent = [one for one in decide(seen, spot(1, 1, surge=0, **careful)).actions if isinstance(one, Drain)]
    assert len(sent) == 1


@pytest.mark.parametrize("why", ["its provider is away", "it is full"])
def test_on_demand_does_not_wait_for_a_pool_that_cannot_be_asked(why: str) -> None:
    far = replace(A, id="far", provider="far")
    full = replace(A, capacity=1)
    there = (held("1", "a"),) if why == "it is full" else ()
    away = frozenset({"far"}) if why == "its provider is away" else frozenset()
    seen = snapshot(*there, offers=(full if there else far, DEAR), unreachable=away)
    launched: list[str] = []
    for _ in range(5):
        plan = decide(seen, spot(3 if there else 2, providers=("cloud", "far")))
        launched += [one.offer.id for one in plan.actions if isinstance(one, Launch)]
        seen = after(seen, plan)
    assert "dear" in launched


def test_on_demand_waits_for_the_first_pool_only() -> None:
    many = tuple(offer(f"p{number}", purchase=SPOT, price_per_hour_micros=300_000) for number in range(9))
    seen = snapshot(offers=(*many, DEAR))
    asked: list[set[str]] = []
    for _ in range(2):
        plan = decide(seen, spot(1, 2))
        asked.append({one.offer.id for one in plan.actions if isinstance(one, Launch)})
        many = tuple(replace(one, refusals=1, refused_at=seen.now) if one.id in asked[-1] else one for one in many)
        seen = after(seen, plan, offers=(*many, DEAR))
    assert "dear" not in asked[0]
    assert "dear" in asked[1]


@pytest.mark.parametrize("damage", [{"own": {"pools": [{"of": "another shape"}]}}, {"policy": "hazard"}, {}])
def test_a_memory_of_another_shape_is_begun_anew(damage: dict[str, object]) -> None:
    seen = snapshot(offers=OFFERS)
    seen = after(seen, decide(seen, spot(2)))
    broken = {
        "placement": damage if len(damage) < 2 and "own" not in damage else {**seen.memory["placement"], **damage}
    }
    assert decide(replace(seen, memory=broken), spot(2)).actions
