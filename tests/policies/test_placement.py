"""Serving on spot: one decision at a time, and what holds in any market."""

import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.placement import MOST_SPOT, POLICIES, Memory, outage_price, place, reordered, restored
from policies.pools import AFTER_LOSS_SECONDS, BACKOFF_LONGEST_SECONDS, Pool, hazard, held, level, lost, refused
from policies.serving import ON_DEMAND, Decision, Fleet, Goal, Replica

GOAL = Goal(replicas=4, cold_start_seconds=180.0, availability=0.99)
OLD = -48 * 3600.0


def fleet(*replicas: Replica, now: float = 0.0, pools: int = 3, **more) -> Fleet:
    return Fleet(now=now, on_demand_price=1.0, pools=(0.3,) * pools, replicas=replicas, **more)


def replica(id: int, pool: int, *, ready: bool = True, launched_at: float = OLD, **more) -> Replica:
    return Replica(id=id, pool=pool, ready=ready, launched_at=launched_at, **more)


def settled(pool: int, pools: int = 3, **more) -> Memory:
    """A memory that has held four machines in one pool for two days."""
    known = [Pool(at=OLD)] * pools
    known[pool] = Pool(at=OLD, held_since=OLD)
    wanted = tuple(4 * (at == pool) for at in range(pools))
    return Memory(at=0.0, pools=tuple(known), reached=True, wanted=wanted, review_at=600.0, **more)


def pools_of(decision: Decision) -> list[int]:
    return [launch.pool for launch in decision.launches]


def test_at_first_spot_is_tried_and_on_demand_covers_all():
    decision = place(fleet(), GOAL)
    assert pools_of(decision).count(ON_DEMAND) == 4
    assert len([pool for pool in pools_of(decision) if pool != ON_DEMAND]) >= 4
    assert all(launch.reason for launch in decision.launches)


def test_a_seasoned_fleet_is_left_alone():
    decision = place(fleet(*(replica(n, 1) for n in range(4)), now=60.0), GOAL, settled(1))
    assert not decision.launches and not decision.stops
    assert decision.hold_seconds == 540.0


@pytest.mark.parametrize("gone", [1, 2, 4])
def test_on_demand_is_launched_in_the_moment_of_a_loss_for_exactly_what_is_missing(gone):
    left = [replica(n, 1) for n in range(4 - gone)]
    decision = place(fleet(*left, now=60.0, lost=(1,) * gone), GOAL, settled(1))
    missing = gone if gone == 4 or _trusts(decision) else 4
    assert pools_of(decision).count(ON_DEMAND) == missing
    assert 1 not in pools_of(decision), "the pool that took machines back rests"


def _trusts(decision: Decision) -> bool:
    return all("too young" not in launch.reason for launch in decision.launches)


def test_a_notice_is_used_at_once():
    leaving = [replica(n, 1, reclaim_at=170.0) for n in range(4)]
    decision = place(fleet(*leaving, now=60.0), GOAL, settled(1))
    assert pools_of(decision).count(ON_DEMAND) == 4
    assert {0, 2} & set(pools_of(decision)) and 1 not in pools_of(decision)
    assert not decision.stops, "they serve until they are taken"


def test_warned_with_a_promise_well_kept_spot_may_answer_first_and_a_refusal_ends_the_wait():
    leaving = [replica(n, 1, reclaim_at=170.0) for n in range(4)]
    well, badly = settled(1, hours=500.0, short_hours=0.0), settled(1, hours=500.0, short_hours=20.0)
    decision = place(fleet(*leaving, now=60.0), GOAL, well)
    assert pools_of(decision) and ON_DEMAND not in pools_of(decision) and decision.hold_seconds == 0.0
    (tried,) = set(pools_of(decision))
    refused_by = fleet(*leaving, now=120.0, refused=(tried,))
    assert pools_of(place(refused_by, GOAL, decision.memory)).count(ON_DEMAND) == 4
    assert pools_of(place(fleet(*leaving, now=60.0), GOAL, badly)).count(ON_DEMAND) == 4
    alone = settled(0, pools=1, hours=500.0)
    nowhere = [replica(n, 0, reclaim_at=170.0) for n in range(4)]
    assert pools_of(place(fleet(*nowhere, now=60.0, pools=1), GOAL, alone)) == [ON_DEMAND] * 4, "nothing to ask"
    short = [replica(n, 1, reclaim_at=170.0, ready=n > 0) for n in range(4)]
    assert pools_of(place(fleet(*short, now=60.0), GOAL, well)).count(ON_DEMAND) == 4, "something lacks already"


def test_on_demand_stops_when_its_replacement_serves_and_not_before():
    covering = [replica(n, ON_DEMAND) for n in range(4)]
    booting = [replica(4 + n, 1, ready=False, launched_at=0.0) for n in range(4)]
    ready = [replica(4 + n, 1) for n in range(4)]
    assert not place(fleet(*covering, *booting, now=60.0), GOAL, settled(1)).stops
    stopped = place(fleet(*covering, *ready, now=60.0), GOAL, settled(1)).stops
    assert [stop.id for stop in stopped] == [0, 1, 2, 3]


def test_a_booting_on_demand_machine_is_given_up_when_spot_is_as_soon():
    together = [replica(n, ON_DEMAND, ready=False, launched_at=0.0) for n in range(4)]
    spot = [replica(4 + n, 1, ready=False, launched_at=0.0) for n in range(4)]
    later = [replica(4 + n, 1, ready=False, launched_at=60.0) for n in range(4)]
    assert len(place(fleet(*together, *spot, now=60.0), GOAL, settled(1)).stops) == 4
    assert not place(fleet(*together, *later, now=60.0), GOAL, settled(1)).stops


def test_a_launch_that_hangs_is_not_counted_on():
    hung = [replica(n, 1, ready=False, launched_at=0.0) for n in range(4)]
    assert ON_DEMAND not in pools_of(place(fleet(*hung, now=120.0), GOAL, settled(1)))
    assert pools_of(place(fleet(*hung, now=300.0), GOAL, settled(1))).count(ON_DEMAND) == 4


def test_the_base_is_on_demand():
    goal = replace(GOAL, base_on_demand=1)
    kept = [replica(0, ON_DEMAND), *(replica(n, 1) for n in (1, 2, 3))]
    memory = replace(settled(1), wanted=(0, 3, 0))
    decision = place(fleet(*kept, now=60.0), goal, memory)
    assert not decision.launches and not decision.stops


def test_a_guard_survives_the_loss_of_any_one_pool():
    goal = replace(GOAL, guard=True)
    memory = replace(settled(1), review_at=0.0)
    decision = place(fleet(*(replica(n, 1) for n in range(4)), now=60.0), goal, memory)
    wanted = decision.memory.wanted
    assert sum(wanted) - max(wanted) >= 4
    assert pools_of(decision).count(ON_DEMAND) == 4, "until the others serve"


def test_an_outage_is_dearer_the_more_is_promised_and_the_worse_it_was_kept():
    memory = settled(1, hours=100.0, short_hours=0.5)
    strict = replace(GOAL, availability=0.999)
    worse = replace(memory, short_hours=2.0)
    assert outage_price(strict, memory) > outage_price(GOAL, memory)
    assert outage_price(GOAL, worse) > outage_price(GOAL, memory)


def test_a_dearer_pool_is_taken_only_if_it_is_worth_it():
    unlike = replace(fleet(now=0.0, pools=2), pools=(0.9, 0.3))
    assert 0 not in pools_of(place(unlike, replace(GOAL, availability=0.5)))
    dear = replace(fleet(now=0.0, pools=2), pools=(1.2, 1.1))
    assert set(pools_of(place(dear, GOAL))) == {ON_DEMAND}


@pytest.mark.parametrize("replicas", [1, 4])
@pytest.mark.parametrize("cold", [20.0, 180.0])
def test_nobody_moves_for_a_hair_of_a_price(replicas, cold):
    """Spot prices of three pools that are up all day wander by half a percent: who serves stays."""
    goal, memory, running, launched = Goal(replicas=replicas, cold_start_seconds=cold), None, [], 0
    for minute in range(24 * 60):
        now = minute * 60.0
        running = [replace(one, ready=now - one.launched_at >= cold) for one in running]
        prices = tuple(0.3 * (1 + 0.005 * math.sin(minute * (pool + 1.0))) for pool in range(3))
        decision = place(Fleet(now=now, on_demand_price=1.0, pools=prices, replicas=tuple(running)), goal, memory)
        memory, stopped = decision.memory, {one.id for one in decision.stops}
        running = [one for one in running if one.id not in stopped]
        for launch in decision.launches:
            running.append(replica(launched, launch.pool, ready=False, launched_at=now))
            launched += 1
    assert launched == 2 * replicas, "once on spot, and on demand beside it while it seasons"


def test_where_nothing_is_to_be_had_on_demand_the_worst_pool_is_better_than_nothing():
    """A budget that allows spot only, and pools that have lost machines again and again."""
    bad = Pool()
    for hour in range(1, 40):
        bad = lost(held(bad, hour * 600.0), hour * 600.0 + 60.0, some_left=False)
    goal = Goal(replicas=2, cold_start_seconds=90.0, availability=0.999)
    memory = Memory(at=40 * 600.0, pools=(replace(bad, retry_at=0.0),) * 2)
    nothing_else = replace(fleet(now=40 * 600.0, pools=2), on_demand_price=0.9, on_demand=False)
    assert [pool for pool in pools_of(place(nothing_else, goal, memory)) if pool != ON_DEMAND]
    covered = replace(nothing_else, on_demand=True)
    assert not [pool for pool in pools_of(place(covered, goal, memory)) if pool != ON_DEMAND]


def test_a_pool_that_is_taken_is_not_thought_to_be_younger_than_those_that_were_left():
    goal, hours = Goal(replicas=1, cold_start_seconds=180.0), 6 * 3600.0
    known = Memory(at=0.0, pools=(Pool(),) * 3)
    first = place(fleet(now=hours), goal, known)
    taken = replica(0, first.launches[0].pool, launched_at=hours)
    later = place(fleet(taken, now=hours + 60), goal, first.memory).memory
    assert hazard(later.pools[taken.pool], hours + 60) <= min(hazard(pool, hours + 60) for pool in later.pools)


def test_refused_pools_back_off_and_heal():
    pool, waits = Pool(), []
    for attempt in range(6):
        now = 10_000.0 * attempt
        pool = refused(pool, now)
        waits.append(pool.retry_at - now)
    assert waits == sorted(waits) and waits[0] == 120.0 and waits[-1] == BACKOFF_LONGEST_SECONDS
    healed = held(pool, 70_000.0)
    assert healed.refusals == 0
    assert refused(lost(healed, 80_000.0, some_left=False), 90_000.0).retry_at == 90_120.0


def test_hazard_falls_with_age_rises_with_losses_and_old_losses_fade():
    young = held(refused(Pool(), 0.0), 60.0)
    assert hazard(young, 120.0) > 5 * hazard(young, 7200.0)
    hit = lost(young, 300.0, some_left=False)
    assert level(hit) > level(young)
    assert hit.retry_at == 300.0 + AFTER_LOSS_SECONDS
    later = held(hit, 30 * 86400.0)
    assert level(later) < level(hit)


def test_what_is_known_of_a_pool_follows_its_name():
    memory = settled(1)
    moved = reordered(memory, ("a", "b", "c"), ("new", "c", "b"))
    assert moved.pools[2] == memory.pools[1]
    assert moved.wanted == (0, 0, 4)
    assert moved.pools[0] == Pool(at=memory.at)
    assert reordered(memory, "abc", "abc") == memory


@st.composite
def markets(draw):
    """For each pool, how many machines it holds, one value for ten minutes."""
    pools = draw(st.integers(1, 4))
    most = draw(st.sampled_from([1, 4]))
    length = draw(st.integers(6, 30))
    counts = [draw(st.lists(st.integers(0, most), min_size=length, max_size=length)) for _ in range(pools)]
    return [[99 * count if most == 1 else count for count in pool] for pool in counts]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    counts=markets(),
    replicas=st.integers(1, 6),
    cold=st.sampled_from([0.0, 60.0, 180.0, 600.0]),
    availability=st.sampled_from([0.9, 0.99, 0.9999]),
    guard=st.booleans(),
    notice=st.sampled_from([0, 120]),
)
def test_in_any_market(counts, replicas, cold, availability, guard, notice):
    goal = Goal(replicas=replicas, cold_start_seconds=cold, availability=availability, guard=guard)
    running: list[Replica] = []
    refusals: list[int] = []
    memory, number = None, 0
    for step in range(10 * len(counts[0])):
        now = 60.0 * step
        losses = []
        for pool, held_there in enumerate(counts):
            kept = [one for one in running if one.pool == pool][: held_there[step // 10]]
            gone = [one for one in running if one.pool == pool and one not in kept]
            losses += [pool] * len(gone)
            running = [one for one in running if one not in gone]
        running = [
            replace(
                one,
                ready=one.ready or one.launched_at + cold <= now,
                reclaim_at=_reclaim(running, one, counts, now, notice),
            )
            for one in running
        ]
        seen = fleet(*running, now=now, pools=len(counts), lost=tuple(losses), refused=tuple(refusals))
        decision = place(seen, goal, memory)
        plain = json.loads(json.dumps(asdict(memory))) if memory else None
        assert place(seen, goal, restored(plain) if plain else None) == decision, "it forgets nothing, adds nothing"
        stopped = {stop.id for stop in decision.stops}
        steady = [one for one in running if one.reclaim_at is None]
        after = [one for one in steady if one.id not in stopped]
        if any(one.ready for one in running if one.id in stopped):
            assert sum(one.ready for one in after) >= replicas, "the replacement serves before the stop"
        launched = pools_of(decision)
        covering = [one for one in after if one.pool == ON_DEMAND]
        assert len(covering) + launched.count(ON_DEMAND) <= replicas
        spots = len(after) - len(covering) + len(launched) - launched.count(ON_DEMAND)
        assert spots <= MOST_SPOT * replicas
        soon = [one for one in after if one.ready or one.launched_at + cold <= now + cold]
        if guard or seen.refused or sum(one.ready for one in running) < replicas:
            assert len(soon) + launched.count(ON_DEMAND) >= replicas, "what is missing is under way, without fail"
        assert len(soon) + len(launched) >= replicas, "or nothing is short yet, and spot machines are asked for"
        memory = decision.memory
        running = [one for one in running if one.id not in stopped]
        refusals = []
        for pool in launched:
            free = pool == ON_DEMAND or sum(one.pool == pool for one in running) < counts[pool][step // 10]
            if free:
                running.append(Replica(id=number, pool=pool, launched_at=now))
                number += 1
            else:
                refusals.append(pool)


def _reclaim(running, one, counts, now, notice):
    if not notice or one.pool == ON_DEMAND:
        return None
    older = [other.id for other in running if other.pool == one.pool].index(one.id)
    tick = min(int(now + notice) // 600, len(counts[0]) - 1)
    return tick * 600.0 if counts[one.pool][tick] <= older else None


def test_there_are_the_published_ones_and_ours():
    assert list(POLICIES) == ["hazard", "spothedge", "round-robin", "on-demand"]


def test_while_a_young_pool_seasons_with_one_the_others_stay_beside_it() -> None:
    """Without one of them it would need a machine on demand beside it."""
    goal = replace(GOAL, replicas=3, availability=0.9999)
    old = Pool(held_since=-3.6e6, age_then_hours=24.0)
    memory = Memory(at=0.0, pools=(Pool(), old), wanted=(3, 0), review_at=1e6)
    there = [Replica(id=number, pool=int(number > 0), launched_at=0.0, ready=True) for number in range(4)]
    decision = place(Fleet(now=60.0, on_demand_price=1.0, pools=(0.3, 0.5), replicas=tuple(there)), goal, memory)
    assert (decision.launches, decision.stops) == ((), ())
    spare = [Replica(id=number, pool=1, launched_at=0.0, ready=True) for number in range(9)]
    full = Fleet(now=60.0, on_demand_price=1.0, pools=(0.3, 0.5), replicas=tuple(spare))
    (stop,) = place(full, goal, memory).stops
    assert stop.reason == "more than the allocation wants", "as many as may be asked for are in the other one"
