"""A machine of one's own that is free takes the place of a rented one, and nobody is missed meanwhile."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.decide import Policy, decide
from policies.disruption import SETTLED
from policies.lifecycle import LIVE, Status
from policies.snapshot import Instance, Load, Offer, Purchase, Snapshot
from tests.policies.test_decide import NOW, SPEED, actions, instance, obeyed, offer, policy, snapshot

LONG_AGO = NOW - 2 * SETTLED
OWN = offer("own", provider="ssh", purchase=Purchase.OWNED, capacity=1, price_per_hour_micros=100_000)
RENTED, SPOT = offer("rented"), offer("spot", purchase=Purchase.SPOT, price_per_hour_micros=300_000)
BOTH = ("ssh", "cloud")


def rented(name: str = "r", **more: Any) -> Instance:
    return instance(name, **{"offer_id": "rented", "requested_at": LONG_AGO, "launched_at": LONG_AGO, **more})


def own(status: Status = Status.READY, name: str = "o") -> Instance:
    return instance(name, status, offer_id="own", provider="ssh", purchase=Purchase.OWNED)


def world(*there: Instance, offers: tuple[Offer, ...] = (OWN, RENTED), **more: Any) -> Snapshot:
    return snapshot(*there, offers=offers, **more)


@pytest.mark.parametrize(
    "there",
    [
        pytest.param(rented(), id="on-demand"),
        pytest.param(rented(offer_id="spot", purchase=Purchase.SPOT), id="spot"),
    ],
)
def test_it_is_started_beside_the_rented_one_which_leaves_when_it_serves(there: Instance) -> None:
    asked = policy(1, 1, providers=BOTH, spot=there.purchase is Purchase.SPOT)
    offers = (OWN, SPOT, RENTED)
    assert actions(decide(world(there, offers=offers), asked)) == ["launch own"]
    for starting in (Status.REQUESTED, Status.BOOTING):
        assert actions(decide(world(there, own(starting), offers=offers), asked)) == []
    assert actions(decide(world(there, own(), offers=offers), asked)) == ["drain r"]
    gone = replace(there, status=Status.DRAINING, draining_at=NOW, in_flight=1)
    assert actions(decide(world(gone, own(), offers=offers), asked)) == []
    assert actions(decide(world(own(), offers=offers), asked)) == []


RESTS = replace(OWN, refusals=3, refused_at=NOW - timedelta(seconds=1))
SLOWER = replace(SPEED, gpu="GTX 1060", images_per_second=1.0)
OLD_CARD = replace(OWN, gpu="GTX 1060")


@pytest.mark.parametrize(
    ("seen", "asked"),
    [
        pytest.param(world(rented(requested_at=NOW - SETTLED / 2)), policy(1, providers=BOTH), id="just-rented"),
        pytest.param(world(rented(), offers=(RESTS, RENTED)), policy(1, providers=BOTH), id="left-alone"),
        pytest.param(world(rented()), policy(1, providers=BOTH, surge=0), id="no-surge"),
        pytest.param(world(rented()), policy(1, providers=("cloud", "ssh")), id="it-comes-second"),
        pytest.param(world(rented(), unreachable=frozenset({"ssh"})), policy(1, providers=BOTH), id="unreachable"),
        pytest.param(world(rented(), own()), policy(2, 2, providers=BOTH), id="none-is-free"),
        pytest.param(
            world(rented(), offers=(OLD_CARD, RENTED), profiles=(SPEED, SLOWER)),
            policy(1, 4, providers=BOTH),
            id="slower",
        ),
        pytest.param(world(rented(), recent_launches=(NOW,) * 100), policy(1, 1, providers=BOTH), id="runaway-bound"),
    ],
)
def test_the_rented_one_stays(seen: Snapshot, asked: Policy) -> None:
    assert actions(decide(seen, asked)) == []


def test_a_slower_one_replaces_it_where_the_number_is_fixed() -> None:
    seen = world(rented(), offers=(OLD_CARD, RENTED), profiles=(SPEED, SLOWER))
    assert actions(decide(seen, policy(1, 1, providers=BOTH))) == ["launch own"]


def test_of_too_many_a_rented_one_leaves_though_one_s_own_is_younger() -> None:
    young = instance("o", offer_id="own", provider="ssh", purchase=Purchase.OWNED, requested_at=NOW)
    assert actions(decide(world(rented(), young), policy(1, 4, providers=BOTH))) == ["drain r"]


def test_one_that_never_serves_costs_nobody_his_place() -> None:
    late = replace(own(Status.BOOTING), requested_at=NOW - timedelta(hours=1), launched_at=NOW - timedelta(hours=1))
    assert actions(decide(world(rented(), late), policy(1, 1, providers=BOTH))) == ["terminate o"]


@given(
    st.integers(1, 4),
    st.integers(0, 5),
    st.integers(1, 2),
    st.booleans(),
    st.booleans(),
    st.integers(0, 5),
    st.integers(0, 3),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_at_rest_ones_own_are_all_in_use_and_none_is_rented_for_nothing(
    need: int, capacity: int, surge: int, fixed: bool, spot: bool, on_demand: int, on_spot: int
) -> None:
    """Each tick is 20 seconds; on the way no fewer serve than at first, or than are needed."""
    asked = policy(need, need if fixed else need + 2, providers=BOTH, surge=surge, spot=spot)
    offers = (replace(OWN, capacity=capacity), RENTED, *((SPOT,) if spot else ()))
    there = [rented(f"d{i}") for i in range(on_demand)]
    there += [rented(f"s{i}", offer_id="spot", purchase=Purchase.SPOT) for i in range(on_spot if spot else 0)]
    seen, quiet = world(*there, offers=offers, load=Load(images_per_second=0.0, peak_images_per_second=0.0)), 0
    least = min(need, len(there))
    for step in range(300):
        plan = decide(seen, asked)
        quiet = 0 if plan.actions else quiet + 1
        seen = replace(obeyed(seen, plan, step), memory={**seen.memory, **plan.memory})
        assert sum(one.status is Status.READY for one in seen.instances) >= least, actions(plan)
        if quiet > 12:
            break
    assert quiet > 12, actions(plan)
    up = Counter(one.offer_id for one in seen.instances if one.status in LIVE)
    assert up["own"] == min(need, capacity)
    if not spot or capacity >= need:
        assert up.total() == need
