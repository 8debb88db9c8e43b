"""A fleet with spot machines at rest: as many as are wanted, the base on demand among them, whatever it was before."""

import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from policies.decide import Policy, decide
from policies.lifecycle import LIVE, Status
from policies.placement import POLICIES
from policies.snapshot import Instance, Offer, Purchase, Snapshot
from tests.policies.test_decide import NOW, actions, instance, obeyed, offer, policy, snapshot

LONG_AGO = NOW - timedelta(hours=9)
DEAR = offer("dear")


def pools(*prices: int) -> tuple[Offer, ...]:
    """a, b, c on spot at these prices, of which 1000 is that on demand."""
    spots = (
        offer(name, purchase=Purchase.SPOT, price_per_hour_micros=1000 * price)
        for name, price in zip("abc", prices, strict=False)
    )
    return (*spots, DEAR)


def fleet(there: str) -> list[Instance]:
    """One machine a letter: of pool a, b or c, or on demand (d); a capital has just been launched."""
    return [
        instance(
            str(number),
            Status.BOOTING if letter.isupper() else Status.READY,
            offer_id="dear" if letter in "dD" else letter.lower(),
            purchase=Purchase.ON_DEMAND if letter in "dD" else Purchase.SPOT,
            requested_at=NOW if letter.isupper() else LONG_AGO + number * timedelta(seconds=1),
            launched_at=NOW if letter.isupper() else LONG_AGO,
        )
        for number, letter in enumerate(there)
    ]


def ready(seen: Snapshot) -> int:
    return sum(one.status is Status.READY for one in seen.instances)


def rested(seen: Snapshot, asked: Policy, steps: int = 150) -> tuple[Snapshot, Counter[str]]:
    """The world when nothing has been done for a while, and how many are up of each offer.

    With surge no fewer serve on the way than at first, and never more are up than may be.
    """
    quiet, least = 0, min(ready(seen), asked.schedule.min)
    most = max(asked.schedule.max + asked.surge, len(seen.instances))
    for step in range(steps):
        plan = decide(seen, asked)
        quiet = 0 if plan.actions else quiet + 1
        memory = json.loads(json.dumps({**seen.memory, **plan.memory}))
        seen = replace(obeyed(seen, plan, step), memory=memory)
        assert asked.surge == 0 or ready(seen) >= least, actions(plan)
        assert sum(one.status in LIVE for one in seen.instances) <= most
        if quiet > 35 and asked.surge:  # none leaves without surge before the promise leaves it open
            break
    assert quiet > 35, actions(plan)
    assert all(one.status is Status.READY for one in seen.instances)
    return seen, Counter(one.offer_id for one in seen.instances)


@given(
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(0, 2),
    st.integers(1, 2),
    st.lists(st.sampled_from((300, 400, 500, 1200)), min_size=3, max_size=3),
    st.sampled_from((0.9, 0.99, 0.999)),
    st.text("abcdABD", max_size=6),
)
@example(3, 1, 0, 1, [500, 400, 500], 0.99, "aaab").via("rested with four on spot, and none on demand")
@example(1, 0, 0, 1, [500, 400, 500], 0.99, "aa").via("each waited for the machine that there was no room for")
@example(1, 0, 2, 2, [300, 500, 400], 0.99, "bbb").via("as many as may be asked for were in a pool that nobody wants")
@example(1, 0, 0, 1, [500, 500, 500], 0.999, "bcc").via("on demand was wanted beside them, and had no room")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_at_rest_nothing_is_surplus_and_the_base_is_there(
    need: int, base: int, more: int, surge: int, prices: list[int], availability: float, there: str
) -> None:
    base = min(base, need)
    asked = policy(need, need + more, spot=True, base_on_demand=base, surge=surge, availability=availability)
    seen, up = rested(snapshot(*fleet(there), offers=pools(*prices)), asked)
    known = seen.memory["placement"]
    wanted = dict(zip(known["pools"], known["own"]["wanted"], strict=True))
    assert up["dear"] >= base
    seasons = any(0 < up[pool] < count for pool, count in wanted.items())  # the others stay until it has
    young = not any(wanted.values())  # those that serve are trusted already, and grow old enough to be wanted
    dear = {pool for pool, price in zip("abc", prices, strict=True) if price > 1000}
    assert seasons or all(up[pool] <= count for pool, count in wanted.items() if pool in dear or not young)
    # what is more than the allocation wants are machines on demand beside pools that season
    full = need + more + surge
    assert up.total() in (max(need, base + sum(wanted.values())), full)
    assert up.total() <= full


@pytest.mark.parametrize("placing", POLICIES)
@pytest.mark.parametrize("there", ["aab", "aaab", "bbbb", "abc"])
def test_whatever_the_policy_the_base_comes_though_spot_has_taken_its_place(there: str, placing: str) -> None:
    asked = policy(3, 3, spot=True, base_on_demand=1, placing=placing)
    _, up = rested(snapshot(*fleet(there), offers=pools(500, 400, 500)), asked)
    assert up["dear"] >= 1
    assert up.total() == 3 or placing != "hazard"


def test_without_surge_the_base_comes_when_the_promise_leaves_two_starts_open() -> None:
    asked = policy(2, 2, spot=True, base_on_demand=1, surge=0, availability=0.9)
    seen = snapshot(*fleet("aa"), offers=pools(300))
    plan = decide(seen, asked)
    assert plan.actions == ()
    _, up = rested(seen, asked, 400)
    assert up == {"a": 1, "dear": 1}


@pytest.mark.parametrize("surge", [0, 1, 2])
@pytest.mark.parametrize("prices", [(1200,), (1200, 1100), (2000, 1001)])
def test_spot_that_has_become_dearer_than_on_demand_is_left(prices: tuple[int, ...], surge: int) -> None:
    asked = policy(3, 3, spot=True, surge=surge, availability=0.9)
    _, up = rested(snapshot(*fleet("aaa"), offers=pools(300)), asked, 400 if surge == 0 else 150)
    assert up == {"a": 3}
    seen = snapshot(*fleet("aaa"), offers=pools(*prices))
    _, up = rested(seen, asked, 400 if surge == 0 else 150)
    assert up == {"dear": 3}


def test_nobody_leaves_spot_for_a_hair_of_a_price() -> None:
    asked = policy(3, 3, spot=True)
    seen, up = rested(snapshot(*fleet("aaa"), offers=pools(1040)), asked)
    assert up == {"a": 3}
    _, up = rested(replace(seen, offers=pools(1060)), asked)
    assert up == {"dear": 3}


def test_spares_leave_the_place_of_the_base_free() -> None:
    """It was lost: the spare that the allocation wants would be had first, and it for good never."""
    asked = policy(3, 3, spot=True, base_on_demand=1, surge=0, availability=0.999)
    seen = snapshot(*fleet("aa"), offers=pools(300, 300, 300))
    assert actions(decide(seen, asked)) == ["launch dear"]
    resting = replace(DEAR, refusals=3, refused_at=NOW)
    plan = decide(replace(seen, offers=(*pools(300, 300, 300)[:-1], resting)), asked)
    assert [what for what in actions(plan) if what.startswith("launch")] == ["launch b"], "while it is not to be had"


@pytest.mark.parametrize("there", ["aa", "dd", "ad", "aaa"])
def test_nobody_leaves_for_a_machine_of_ones_own_before_that_serves(there: str) -> None:
    """It was counted on as soon as it was free: one fewer served while it started."""
    own = offer("own", provider="ssh", purchase=Purchase.OWNED, capacity=1, price_per_hour_micros=100_000)
    asked = policy(len(there), spot=True, providers=("ssh", "cloud"))
    seen = snapshot(*fleet(there), offers=(own, *pools(300, 400)))
    plan = decide(seen, asked)
    assert "launch own" in actions(plan)
    assert not [what for what in actions(plan) if what.startswith("drain")]
    starting = instance("own", Status.BOOTING, offer_id="own", provider="ssh", purchase=Purchase.OWNED)
    waits = actions(decide(replace(seen, instances=(*seen.instances, starting)), asked))
    assert not [what for what in waits if what.startswith("drain")]
    serves = replace(starting, status=Status.READY)
    then = actions(decide(replace(seen, instances=(*seen.instances, serves)), asked))
    assert len([what for what in then if what.startswith("drain")]) == 1
