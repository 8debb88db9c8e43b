"""A cheaper machine takes the place of a dearer one that is rented on demand, and nobody is missed meanwhile."""

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.decide import decide
from policies.disruption import SETTLED
from policies.lifecycle import LIVE, Status
from policies.plan import Launch
from policies.replacement import REFUSED_LATELY, WORTH_MOVING
from policies.snapshot import Instance, Load, Offer, Purchase, Snapshot
from policies.windows import Schedule, Window
from tests.policies.test_decide import NOW, SPEED, actions, instance, obeyed, offer, policy, snapshot

LONG_AGO = NOW - 2 * SETTLED
DEAR = offer("dear", price_per_hour_micros=1_000_000)
CHEAP = offer("cheap", price_per_hour_micros=600_000)
FAST = replace(SPEED, gpu="L4", images_per_second=SPEED.images_per_second * 3)
SLOW = replace(SPEED, gpu="P4", images_per_second=SPEED.images_per_second * 0.9)


def there(name: str = "d", status: Status = Status.READY, **more: Any) -> Instance:
    return instance(name, status, **{"offer_id": "dear", "requested_at": LONG_AGO, "launched_at": LONG_AGO, **more})


def world(*machines: Instance, offers: tuple[Offer, ...] = (CHEAP, DEAR), **more: Any) -> Snapshot:
    return snapshot(*machines, **{"offers": offers, "profiles": (SPEED, FAST, SLOW), **more})


def test_it_is_started_beside_the_dearer_one_which_leaves_when_it_serves() -> None:
    asked = policy(1, 1)
    assert actions(decide(world(there()), asked)) == ["launch cheap"]
    for starting in (Status.REQUESTED, Status.BOOTING):
        young = there("c", starting, offer_id="cheap", requested_at=NOW, launched_at=NOW)
        assert actions(decide(world(there(), young), asked)) == []
    serves = there("c", offer_id="cheap", requested_at=NOW, launched_at=NOW)
    plan = decide(world(there(), serves), asked)
    assert actions(plan) == ["drain d"]
    assert plan.actions[0].reason == "a cheaper machine is to be had, its replacement serves"
    assert actions(decide(world(serves), asked)) == []


def test_of_several_the_dearest_goes_and_one_at_a_time() -> None:
    dearest = offer("dearest", price_per_hour_micros=2_000_000)
    seen = world(there("d1"), there("d2", offer_id="dearest"), there("d3"), offers=(CHEAP, DEAR, dearest))
    plan = decide(seen, policy(3, 3, surge=2))
    assert actions(plan) == ["launch cheap"]
    serves = there("c", offer_id="cheap", requested_at=NOW, launched_at=NOW)
    plan = decide(replace(seen, instances=(*seen.instances, serves)), policy(3, 3, surge=2))
    assert actions(plan) == ["drain d2"]


def refused(ago: timedelta) -> Offer:
    return replace(CHEAP, refusals=1, refused_at=NOW - ago)


NEARLY_ALL = policy(1, 1).launches_per_hour(1) - 1
HAIR = replace(CHEAP, price_per_hour_micros=int(1_000_000 / (1 + WORTH_MOVING)) + 1)


@pytest.mark.parametrize(
    ("seen", "asked"),
    [
        pytest.param(world(there(), offers=(HAIR, DEAR)), policy(1, 1), id="a-hair-cheaper"),
        pytest.param(world(there(requested_at=NOW - SETTLED / 2)), policy(1, 1), id="just-rented"),
        pytest.param(world(there()), policy(1, 1, surge=0), id="no-surge"),
        pytest.param(
            world(there(), offers=(refused(REFUSED_LATELY / 2), DEAR)), policy(1, 1), id="it-refused-hours-ago"
        ),
        pytest.param(world(there(), offers=(replace(CHEAP, gpu="P4"), DEAR)), policy(1, 1), id="slower"),
        pytest.param(world(there(), offers=(replace(CHEAP, gpu="K80"), DEAR)), policy(1, 1), id="never-measured"),
        pytest.param(world(there(), offers=(CHEAP,)), policy(1, 1), id="its-own-price-is-unknown"),
        pytest.param(
            world(there(), offers=(replace(CHEAP, currency="EUR"), DEAR)), policy(1, 1), id="in-another-currency"
        ),
        pytest.param(world(there(), offers=(replace(CHEAP, capacity=0), DEAR)), policy(1, 1), id="none-is-left"),
        pytest.param(
            world(there(), recent_launches=(NOW,) * NEARLY_ALL),
            policy(1, 1),
            id="launches-are-kept-for-losses",
        ),
        pytest.param(
            world(
                there(),
                offers=(replace(CHEAP, gpu="L4", price_per_hour_micros=2_000_000), DEAR),
                load=Load(images_per_second=0.1, peak_images_per_second=0.1),
            ),
            policy(1, 3),
            id="cheaper-by-the-image-and-dearer-by-the-hour",
        ),
    ],
)
def test_the_dearer_one_stays(seen: Snapshot, asked: Any) -> None:
    assert actions(decide(seen, asked)) == []


@pytest.mark.parametrize(
    "cheap",
    [
        pytest.param(refused(2 * REFUSED_LATELY), id="it-refused-yesterday"),
        pytest.param(refused(-SETTLED), id="it-refused-before-the-clock-was-set-back"),
        pytest.param(replace(CHEAP, currency="EUR", price_per_hour_micros=80_000), id="in-another-currency"),
        pytest.param(replace(CHEAP, gpu="L4"), id="faster"),
    ],
)
def test_the_dearer_one_is_replaced(cheap: Offer) -> None:
    asked = policy(1, 1, rates={"EUR": Fraction(7)}, currency="CNY")
    assert actions(decide(world(there(), offers=(cheap, DEAR)), asked)) == ["launch cheap"]


def test_of_too_many_the_dearer_one_leaves_though_the_cheaper_is_younger() -> None:
    young = there("c", offer_id="cheap", requested_at=NOW)
    assert actions(decide(world(there(), young), policy(1, 4))) == ["drain d"]


@pytest.mark.parametrize(("minutes", "did"), [(8, ["launch cheap"]), (7, [])])
def test_it_moves_only_if_what_is_saved_until_closing_time_is_more_than_the_start_costs(
    minutes: int, did: list[str]
) -> None:
    """Of 1.0 and 0.6 an hour: 0.4 an hour is saved, and the start's five minutes cost 0.6 an hour."""
    end = NOW.hour * 60 + NOW.minute + minutes
    day = Window(days=frozenset(range(7)), start_minute=0, end_minute=end, min=1, max=1)
    asked = policy(schedule=Schedule(zone=ZoneInfo("UTC"), windows=(day,)), start_seconds=300.0)
    assert actions(decide(world(there()), asked)) == did


def test_others_follow_the_first_when_it_has_lived_for_an_hour() -> None:
    """Machines of an offer that die young take one place of a fleet that served, and not all."""
    asked, dear = policy(3, 3), (there("d1"), there("d2"))
    for age, did in ((SETTLED / 2, []), (SETTLED, ["launch cheap"])):
        first = there("c", offer_id="cheap", requested_at=NOW - age, launched_at=NOW - age)
        assert actions(decide(world(*dear, first), asked)) == did
    young = there("c2", offer_id="cheap", requested_at=NOW, launched_at=NOW)
    assert actions(decide(world(there("d1"), first, young), asked)) == ["launch cheap"]


@pytest.mark.parametrize("need", [1, 3])
@pytest.mark.parametrize(
    ("dearer", "shown"),
    [(1_400_000, True), (900_000, True), (None, True), (600_000, False)],
    ids=["dear", "a-hair-cheaper", "of-unknown-price", "gone"],
)
def test_a_price_that_comes_and_goes_is_not_followed_each_time(dearer: int | None, shown: bool, need: int) -> None:
    """Every tick is 20 seconds, and every other one the offer is no bargain: none of its machines lived to serve."""
    asked, seen = policy(need, need), world(*(there(f"m{number}") for number in range(need)))
    launched: list[datetime] = []
    offers = ((CHEAP, DEAR), (replace(CHEAP, price_per_hour_micros=dearer), DEAR) if shown else (DEAR,))
    for step in range(3 * 180):
        launched = [at for at in launched if seen.now - at < timedelta(hours=1)]
        seen = replace(seen, offers=offers[step % 2], recent_launches=tuple(launched))
        plan = decide(seen, asked)
        launched += [seen.now for one in plan.actions if isinstance(one, Launch)]
        assert len(launched) <= need
        seen = replace(obeyed(seen, plan, step), memory={**seen.memory, **plan.memory})
        assert sum(one.status is Status.READY for one in seen.instances) >= need


@given(
    st.integers(1, 4),
    st.integers(0, 5),
    st.integers(1, 2),
    st.booleans(),
    st.lists(st.sampled_from(("dear", "cheap", "dearest")), max_size=5),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_at_rest_no_dearer_one_is_left_while_a_cheaper_is_free(
    need: int, capacity: int, surge: int, fixed: bool, up: list[str]
) -> None:
    """Each tick is 20 seconds; on the way no fewer serve than at first, or than are needed."""
    asked = policy(need, need if fixed else need + 2, surge=surge)
    offers = (replace(CHEAP, capacity=capacity), DEAR, offer("dearest", price_per_hour_micros=2_000_000))
    machines = [there(f"m{number}", offer_id=name) for number, name in enumerate(up)]
    seen, quiet = world(*machines, offers=offers, load=Load(images_per_second=0.0, peak_images_per_second=0.0)), 0
    least, settled = min(need, len(up)), SETTLED // timedelta(seconds=20) + 12
    for step in range(900):
        plan = decide(seen, asked)
        quiet = 0 if plan.actions else quiet + 1
        seen = replace(obeyed(seen, plan, step), memory={**seen.memory, **plan.memory})
        assert sum(one.status is Status.READY for one in seen.instances) >= least, actions(plan)
        if quiet > settled:
            break
    assert quiet > settled, actions(plan)
    count = Counter(one.offer_id for one in seen.instances if one.status in LIVE)
    assert count.total() == need
    assert count["cheap"] == min(need, max(capacity, up.count("cheap")))
    assert count["dearest"] == 0
    assert all(one.purchase is Purchase.ON_DEMAND for one in seen.instances)
