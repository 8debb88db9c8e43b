"""Machines that their provider recommends to leave: replaced gently, once, on spot, elsewhere; or left as they are."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.decide import Policy, decide
from policies.disruption import RECOMMENDED_FOR, SETTLED
from policies.lifecycle import LIVE, Status
from policies.placement import POLICIES
from policies.plan import Launch
from policies.snapshot import Instance, JobState, Offer, Purchase, Snapshot
from policies.windows import Override
from tests.policies.test_decide import NOW, actions, instance, obeyed, offer, policy, snapshot

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
LONG_AGO = NOW - 9 * HOUR
A, B, C = (offer(name, purchase=Purchase.SPOT, price_per_hour_micros=300_000) for name in "abc")
DEAR = offer("dear")
EVERYWHERE = (A, B, DEAR)


def spot(least: int = 1, most: int | None = None, **more: object) -> Policy:
    return policy(least, most or least, spot=True, **more)


def serving(name: str, of: str = "a", **more: object) -> Instance:
    """A spot machine that has served for hours."""
    return instance(
        name, offer_id=of, purchase=Purchase.SPOT, **{"requested_at": LONG_AGO, "launched_at": LONG_AGO, **more}
    )


def told(seen: Snapshot, *names: str, at: timedelta = timedelta(0)) -> Snapshot:
    """The same world with these machines recommended to be left."""
    those = [replace(one, rebalance_at=seen.now + at) if one.id in names else one for one in seen.instances]
    return replace(seen, instances=tuple(those))


def settled(asked: Policy, *machines: Instance, **more: object) -> Snapshot:
    """A world with these machines in which nothing is left to be done."""
    seen, quiet = snapshot(*machines, **{"offers": EVERYWHERE, **more}), 0
    for step in range(150):
        plan = decide(seen, asked)
        quiet = 0 if plan.actions else quiet + 1
        seen = replace(obeyed(seen, plan, -step), memory=remembered(seen, plan.memory))
    assert quiet > 10
    return seen


def remembered(seen: Snapshot, memory: object) -> dict[str, object]:
    found: dict[str, object] = json.loads(json.dumps({**seen.memory, **memory}))  # type: ignore[dict-item]
    return found


def lived(
    seen: Snapshot, asked: Policy, steps: int = 120, each: Callable[[Snapshot], Snapshot] = lambda seen: seen
) -> tuple[Snapshot, list[str]]:
    """The world so many ticks of 20 s later, and what was done. As many serve all the time as at its beginning."""
    done: list[str] = []
    least = sum(one.status is Status.READY for one in seen.instances)
    for step in range(steps):
        seen = each(seen)
        plan = decide(seen, asked)
        assert plan == decide(seen, asked)
        done += [f"{what} ({one.reason})" for what, one in zip(actions(plan), plan.actions, strict=True)]
        seen = replace(obeyed(seen, plan, step), memory=remembered(seen, plan.memory))
        assert sum(one.status is Status.READY for one in seen.instances) >= min(least, plan.target.replicas)
    return seen, done


def short(done: list[str]) -> list[str]:
    return [one.partition(" (")[0] for one in done]


def test_its_replacement_comes_first_from_another_pool_and_then_it_leaves() -> None:
    asked = spot()
    seen = told(settled(asked, serving("1")), "1")
    after, done = lived(seen, asked)
    assert short(done) == ["launch b", "drain 1", "terminate 1"]
    assert "(the provider recommends to leave it, its replacement serves)" in done[1]
    (left,) = (one for one in after.instances if one.status in LIVE)
    assert (left.offer_id, left.purchase) == ("b", Purchase.SPOT)


def test_nobody_goes_back_while_it_is_followed_though_the_pool_is_cheaper() -> None:
    asked = spot()
    dearer = replace(B, price_per_hour_micros=400_000)
    seen = told(settled(asked, serving("1"), offers=(A, dearer, DEAR)), "1")
    an_hour = int(RECOMMENDED_FOR / MINUTE) * 3
    once = ["launch b", "drain 1", "terminate 1"]
    assert short(lived(seen, asked, an_hour)[1]) == once
    assert short(lived(seen, asked, an_hour + 60)[1])[:4] == [*once, "launch a"], "and then by its price"


def test_each_of_a_pool_is_replaced_once_and_one_at_a_time() -> None:
    asked = spot(3, 9)
    seen = settled(asked, *(serving(name) for name in "123"))
    most = 0

    def watched(seen: Snapshot) -> Snapshot:
        nonlocal most
        most = max(most, sum(one.status in LIVE for one in seen.instances))
        return seen

    _, done = lived(told(seen, "1", "2", "3"), asked, each=watched)
    ended = [f"{what} {name}" for what in ("drain", "terminate") for name in "123"]
    assert sorted(short(done)) == sorted(["launch b"] * 3 + ended)
    assert most == 4


def test_of_several_in_a_pool_one_is_not_enough_to_leave_it() -> None:
    asked = spot(3)
    seen = settled(asked, *(serving(name) for name in "123"))
    assert lived(told(seen, "1", "2"), asked)[1] == []


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("kind", ["no surge", "in its first hour", "long ago", "still to come", "it starts", "closed"])
def test_when_nothing_is_done(kind: str, name: str) -> None:
    asked = spot(surge=0 if kind == "no surge" else 1, placing=name)
    if name == "on-demand":
        pytest.skip("it has no spot machines")
    seen = settled(asked, serving("1"))
    before = seen.instances
    ages = {"long ago": -RECOMMENDED_FOR, "still to come": 2 * HOUR}
    seen = told(seen, *(one.id for one in before), at=ages.get(kind, timedelta(0)))
    young = seen.now - SETTLED + timedelta(minutes=50)
    if kind == "in its first hour":
        seen = replace(seen, instances=tuple(replace(one, launched_at=young) for one in seen.instances))
    if kind == "it starts":
        seen = replace(seen, instances=tuple(replace(one, status=Status.BOOTING) for one in seen.instances))
    if kind == "closed":
        shut = replace(asked.schedule, override=Override(state="closed", until=seen.now + 9 * HOUR))
        asked = replace(asked, schedule=shut)
    calm = replace(seen, instances=tuple(replace(one, rebalance_at=None) for one in seen.instances))
    assert decide(seen, asked) == decide(calm, asked)


@pytest.mark.parametrize("name", sorted({*POLICIES} - {"hazard", "on-demand"}))
def test_published_rules_do_not_follow_it(name: str) -> None:
    """One bought a second machine in the same pool, and never stopped either."""
    asked = spot(placing=name)
    seen = settled(asked, serving("1"))
    old = tuple(replace(one, launched_at=LONG_AGO) for one in seen.instances)
    assert lived(told(replace(seen, instances=old), *(one.id for one in old)), asked)[1] == []


def test_it_is_replaced_once_its_first_hour_is_over_if_the_word_is_still_new() -> None:
    asked = spot()
    seen = settled(asked, serving("1"))
    young = replace(seen.instances[0], launched_at=seen.now - SETTLED + 5 * MINUTE)
    seen = told(replace(seen, instances=(young,)), "1")
    assert decide(seen, asked).actions == ()
    assert actions(decide(replace(seen, now=seen.now + 5 * MINUTE), asked)) == ["launch b"]


@pytest.mark.parametrize(
    ("start_seconds", "availability", "followed"),
    [(120.0, 0.99, False), (300.0, 0.99, False), (600.0, 0.99, True), (600.0, 0.9, False)],
)
def test_who_starts_slowly_does_not_wait_for_the_end_of_the_first_hour(
    start_seconds: float, availability: float, followed: bool
) -> None:
    """That hour would be free; a start without it, beyond the two minutes of the notice, costs more."""
    asked = spot(start_seconds=start_seconds, availability=availability)
    seen = settled(asked, serving("1"), offers=(A, DEAR))
    young = tuple(replace(one, launched_at=seen.now - MINUTE) for one in seen.instances)
    assert [one.offer_id for one in young] == ["a"]
    seen = told(replace(seen, instances=young, offers=EVERYWHERE), *(one.id for one in young))
    assert ("launch b" in actions(decide(seen, asked))) is followed


def test_who_does_not_wait_is_replaced_in_each_pool_once_an_hour() -> None:
    """Whoever comes is told again at once: a pool that was left rests, and then nobody moves."""
    asked = spot(start_seconds=600.0)

    def all_told(seen: Snapshot) -> Snapshot:
        return told(seen, *(one.id for one in seen.instances if one.rebalance_at is None))

    seen = replace(settled(asked, serving("1"), offers=(A, DEAR)), offers=(A, B, C, DEAR))
    after, done = lived(told(seen, "1"), asked, int(RECOMMENDED_FOR / MINUTE) * 3 - 3, all_told)
    assert sorted(one for one in short(done) if one.startswith("launch")) == ["launch b", "launch c"]
    assert sum(one.status in LIVE for one in after.instances) == 1


@pytest.mark.parametrize("offers", [(A, DEAR), (A,)], ids=["on demand only", "nothing else"])
def test_it_stays_where_no_other_spot_is_to_be_had(offers: tuple[Offer, ...]) -> None:
    asked = spot()
    seen = told(settled(asked, serving("1"), offers=offers), "1")
    after, done = lived(seen, asked, 400)  # more than two hours
    assert done == []
    assert [one.id for one in after.instances] == ["1"]


def test_a_pool_that_refuses_is_not_asked_again_and_again() -> None:
    asked = spot()

    def refusing(seen: Snapshot) -> Snapshot:
        refused = [one for one in seen.instances if one.offer_id == "b"]
        more = replace(
            seen.offers[1],
            refusals=seen.offers[1].refusals + len(refused),
            refused_at=seen.now if refused else seen.offers[1].refused_at,
        )
        left = tuple(one for one in seen.instances if one not in refused)
        return replace(seen, instances=left, offers=(A, more, DEAR))

    after, done = lived(told(settled(asked, serving("1")), "1"), asked, 180, refusing)
    assert set(short(done)) == {"launch b"}
    assert len(done) < 9  # in an hour
    assert [one.id for one in after.instances] == ["1"]


def test_the_runaway_bound_holds() -> None:
    asked = spot()
    seen = told(settled(asked, serving("1")), "1")
    full = replace(seen, recent_launches=(seen.now,) * asked.launches_per_hour(1))
    assert decide(full, asked).actions == ()


def test_a_loss_beside_it_is_replaced_as_ever() -> None:
    asked = spot(2)
    seen = told(settled(asked, serving("1"), serving("2", "b"), offers=(A, B, C, DEAR)), "1")
    lost = replace(seen, instances=tuple(one for one in seen.instances if one.id == "1"))
    lost = replace(lost, offers=(A, replace(B, lost_at=seen.now, refused_at=seen.now, refusals=1), C, DEAR))
    launched = [one.offer.id for one in decide(lost, asked).actions if isinstance(one, Launch)]
    assert launched
    assert "a" not in launched
    assert len(launched) <= 2  # the lost one's, and within surge the other's


def test_the_base_that_is_lost_beside_it_comes_back() -> None:
    """It was kept away for the hour, and for good by what was launched meanwhile."""
    asked = spot(3, base_on_demand=1)
    base = instance("base", offer_id="dear", requested_at=LONG_AGO, launched_at=LONG_AGO)
    seen = settled(asked, serving("1"), serving("2"), base, offers=(A, B, C, DEAR))
    alone = replace(seen, instances=tuple(one for one in seen.instances if one.purchase is Purchase.SPOT))
    after, _ = lived(told(alone, *(one.id for one in alone.instances)), asked, 60)
    there = [one for one in after.instances if one.status in LIVE]
    assert sorted(one.purchase for one in there) == [Purchase.ON_DEMAND, Purchase.SPOT, Purchase.SPOT]


def test_a_batch_under_a_deadline_is_not_disturbed() -> None:
    asked = replace(spot(1, 4), schedule=replace(spot(0, 4).schedule, min=0))
    job = JobState(id=1, items_left=5000, deadline_at=NOW + 3 * HOUR)
    seen = snapshot(serving("1"), offers=EVERYWHERE, jobs=(job,))
    for _ in range(3):
        seen = replace(seen, memory=remembered(seen, decide(seen, asked).memory))
    assert decide(told(seen, "1"), asked) == decide(seen, asked)


@pytest.mark.parametrize("offers", [(A, B, DEAR), (A, B, C, DEAR)], ids=["two pools", "three"])
@pytest.mark.parametrize("need, spare", [(1, 0), (2, 0), (3, 3)])
@pytest.mark.parametrize("kind", ["plain", "careful", "guarded"])
def test_of_a_whole_pool_each_is_replaced_at_most_once(
    kind: str, need: int, spare: int, offers: tuple[Offer, ...]
) -> None:
    """Whatever a deployment at rest holds: no more launches than recommendations, and none on demand."""
    asked = spot(need, need + spare, availability=0.9999 if kind == "careful" else 0.99, guard=kind == "guarded")
    seen = settled(asked, *(serving(str(number)) for number in range(need)), offers=offers)
    seen = replace(seen, instances=tuple(replace(one, launched_at=LONG_AGO) for one in seen.instances))
    for pool in {one.offer_id for one in seen.instances if one.purchase is Purchase.SPOT}:
        names = [one.id for one in seen.instances if one.offer_id == pool]
        _, done = lived(told(seen, *names), asked, 90)
        launches = [one for one in short(done) if one.startswith("launch")]
        assert len(launches) <= len(names)
        assert "launch dear" not in launches


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), min_size=1, max_size=4), st.integers(1, 2))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whoever_is_recommended_each_is_replaced_at_most_once(drawn: list[tuple[str, bool]], surge: int) -> None:
    """Beside a world in which nobody is, at most as many launches more as there are recommendations."""
    asked = spot(len(drawn), len(drawn) + 2, surge=surge)
    seen = snapshot(*(serving(str(number), of) for number, (of, _) in enumerate(drawn)), offers=(A, B, C, DEAR))
    _, calm = lived(seen, asked, 90)
    names = [str(number) for number, (_, recommended) in enumerate(drawn) if recommended]
    _, done = lived(told(seen, *names), asked, 90)
    launches = [one for one in short(done) if one.startswith("launch")]
    expected = [one for one in short(calm) if one.startswith("launch")]
    assert len(launches) <= len(expected) + len(names)


@pytest.mark.parametrize("why", ["a guard", "a spare elsewhere"])
def test_where_its_loss_leaves_no_gap_nothing_is_done(why: str) -> None:
    more = {"guard": True} if why == "a guard" else {"availability": 0.9999}
    asked = spot(1, **more)
    seen = settled(asked, serving("1"), offers=(A, B, C, DEAR))
    old = tuple(replace(one, launched_at=LONG_AGO) for one in seen.instances)
    assert {one.offer_id for one in old} == {"a", "b"}
    for one in old:
        assert lived(told(replace(seen, instances=old), one.id), asked)[1] == []
