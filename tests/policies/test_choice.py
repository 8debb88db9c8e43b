"""The one choice of machines: what is planned is what is launched."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import choice
from policies.decide import Policy, decide
from policies.plan import Launch
from policies.snapshot import Load, Offer, Profile, Purchase, Snapshot
from tests.policies.at_rest import at_rest
from tests.policies.test_decide import offer, policy, snapshot

SLOW = offer("slow", gpu="T4", price_per_hour_micros=500_000)
FAST = offer("fast", gpu="L4", price_per_hour_micros=1_800_000)
SPEEDS = {"T4": 2.0, "L4": 10.0, "A10": 5.0}
PROFILES = tuple(
    Profile(model="ppocr", gpu=gpu, precision="fp16", batch=1, images_per_second=speed, p95_ms=500, source="bench")
    for gpu, speed in SPEEDS.items()
)


def world(rate: float, *offers: Offer) -> Snapshot:
    return snapshot(offers=offers, profiles=PROFILES, load=Load(images_per_second=rate, peak_images_per_second=rate))


def planned(rate: float, asked: Policy, *offers: Offer) -> Counter[str]:
    answer = choice.fleet(offers, PROFILES, asked, rate, asked.schedule.min, asked.schedule.max)
    assert answer.winner is not None, answer.reason
    return Counter({part.offer.id: part.count for part in answer.winner.parts})


def launched(rate: float, asked: Policy, *offers: Offer) -> Counter[str]:
    actions = decide(world(rate, *offers), asked).actions
    return Counter(one.offer.id for one in actions if isinstance(one, Launch))


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(1.0, {"slow": 1}), (2.5, {"slow": 2}), (6.0, {"fast": 1}), (8.0, {"fast": 1, "slow": 1}), (13.0, {"fast": 2})],
)
def test_what_is_cheapest_per_image_is_not_cheapest_for_every_load(rate: float, expected: dict[str, int]) -> None:
    asked = policy(0, 9)
    assert planned(rate, asked, SLOW, FAST) == expected
    assert launched(rate, asked, SLOW, FAST) == expected


def test_the_next_provider_comes_in_only_when_those_before_it_cannot_carry_the_load() -> None:
    near = replace(SLOW, id="near", provider="near", price_per_hour_micros=900_000, capacity=2)
    asked = policy(0, 9, providers=("near", "cloud"))
    assert planned(2.5, asked, near, SLOW) == {"near": 2} == launched(2.5, asked, near, SLOW)
    assert planned(4.0, asked, near, SLOW)["slow"] >= 1


def test_what_comes_in_with_the_next_provider_is_the_cheapest_of_both() -> None:
    """Found by the property below: the daemon took the first provider's machines, and the plan had the second's."""
    near = replace(SLOW, id="near", provider="near", price_per_hour_micros=900_000, capacity=2)
    asked = policy(0, 9, providers=("near", "cloud"))
    assert planned(4.0, asked, near, SLOW) == {"slow": 3} == launched(4.0, asked, near, SLOW)
    least = policy(3, 9, providers=("near", "cloud"))
    assert planned(1.0, least, near, SLOW) == {"slow": 3} == launched(1.0, least, near, SLOW)


def test_a_machine_of_ones_own_comes_first_at_what_its_electricity_costs() -> None:
    mine = replace(SLOW, id="mine", provider="local", purchase=Purchase.OWNED, capacity=1)
    asked = policy(0, 9, providers=("cloud", "local"), marginal_micros={"mine": 10_000})
    assert planned(1.0, asked, FAST, mine) == {"mine": 1}


def test_without_a_load_it_is_the_smallest_fleet_of_the_best_per_image() -> None:
    asked = policy(1, 4)
    assert planned(0.0, asked, SLOW, FAST) == {"fast": 1} == launched(0.0, asked, SLOW, FAST)


def test_what_cannot_be_carried_is_as_large_as_it_may_be_and_says_so() -> None:
    answer = choice.fleet([SLOW], PROFILES, policy(0, 2), 5.0, 0, 2)
    assert answer.winner is not None and answer.winner.parts[0].count == 2
    assert "cannot be carried" in answer.reason


OFFERS = st.lists(
    st.tuples(st.sampled_from(["T4", "L4", "A10"]), st.integers(100, 3000), st.none() | st.integers(1, 3)),
    min_size=1,
    max_size=4,
)


@given(OFFERS, st.floats(0.1, 20.0))
@settings(max_examples=60, deadline=None)
def test_the_first_launches_are_those_of_the_plan(drawn: list[tuple[str, int, int | None]], rate: float) -> None:
    offers = [
        offer(f"o{number}", gpu=gpu, price_per_hour_micros=1000 * price, capacity=capacity)
        for number, (gpu, price, capacity) in enumerate(drawn)
    ]
    asked = policy(0, 20)
    answer = choice.fleet(offers, PROFILES, asked, rate, 0, 20)
    if answer.winner is None or "cannot be carried" in answer.reason:
        return
    taken = launched(rate, asked, *offers)
    assert taken
    same_kinds = len({SPEEDS[part.offer.gpu] for part in answer.winner.parts}) == 1
    gpus = Counter(next(one.gpu for one in offers if one.id == name) for name in taken.elements())
    if same_kinds:
        main = answer.winner.parts[0].offer.gpu
        assert set(gpus) == {main}
        assert gpus[main] == sum(part.count for part in answer.winner.parts)


ALIKE = dict.fromkeys(SPEEDS, 2.0)
DRAWN = st.tuples(
    st.sampled_from([*SPEEDS]),
    st.sampled_from(["near", "cloud"]),
    st.sampled_from(Purchase),
    st.integers(100, 3000),
    st.none() | st.integers(1, 3),
)


@given(
    st.lists(DRAWN, min_size=1, max_size=4),
    st.sampled_from([("cloud",), ("near", "cloud"), ("cloud", "near")]),
    st.sampled_from(["hazard", "on-demand"]),
    st.booleans(),
    st.integers(0, 1),
    st.integers(0, 2),
    st.sampled_from([0, 1, 4]),
    st.sampled_from([0.0, 1.0, 4.0]),
)
@settings(max_examples=40, deadline=None)
def test_what_is_planned_is_where_the_daemon_comes_to_rest(
    drawn: list[tuple[str, str, Purchase, int, int | None]],
    providers: tuple[str, ...],
    placing: str,
    spot: bool,
    base: int,
    least: int,
    more: int,
    rate: float,
) -> None:
    """Lists of providers, a base on demand, spot or not and by which policy. All GPUs are as fast: a fleet is as many
    machines, whichever they are. Machines of one's own have an electricity bill, or they are paid for as any other.
    """
    offers = [
        offer(f"o{at}", gpu=gpu, provider=name, purchase=terms, price_per_hour_micros=1000 * price, capacity=capacity)
        for at, (gpu, name, terms, price, capacity) in enumerate(drawn)
        if terms is not Purchase.OWNED
    ]
    profiles = [replace(one, images_per_second=ALIKE[one.gpu]) for one in PROFILES]
    asked = policy(
        least, least + more or 1, providers=providers, placing=placing, spot=spot, base_on_demand=base, p95_ms=800
    )
    answer = choice.fleet(offers, profiles, asked, rate, asked.schedule.min, asked.schedule.max)
    if answer.winner is None or "cannot be carried" in answer.reason or (rate == 0.0 and least == 0):
        return
    if any(part.offer.capacity is not None and part.offer.purchase is Purchase.SPOT for part in answer.winner.parts):
        return  # a spot pool's size is found out by asking it
    if rate == 0.0 and len({one.provider for one in offers}) > 1 and any(one.capacity is not None for one in offers):
        return  # without a load the plan names the first provider's, and the daemon goes on to the next one's
    if spot and any(dear_beside_scarce(one, offers) for one in offers):
        return  # known to differ: where the few machines on demand are taken, no spot machine of their price is bought
    planned = Counter({part.offer.id: part.count for part in answer.winner.parts})
    first, rest = at_rest(offers, profiles, asked, rate)
    assert by_terms(rest, offers) == by_terms(planned, offers)
    if not asked.takes_spot:
        assert by_terms(first, offers) == by_terms(planned, offers)


def dear_beside_scarce(spot: Offer, offers: list[Offer]) -> bool:
    """A spot machine no cheaper than one on demand of which there are only so many."""
    price = spot.price_per_hour_micros or 0
    scarce = [one for one in offers if one.purchase is Purchase.ON_DEMAND and one.capacity is not None]
    return spot.purchase is Purchase.SPOT and any((one.price_per_hour_micros or 0) <= price for one in scarce)


def by_terms(counts: Counter[str], offers: list[Offer]) -> Counter[tuple[str, str, Purchase, int | None]]:
    """Offers alike in all that matters count as one."""
    named = {one.id: (one.provider, one.gpu, one.purchase, one.price_per_hour_micros) for one in offers}
    total: Counter[tuple[str, str, Purchase, int | None]] = Counter()
    for name, count in counts.items():
        total[named[name]] += count
    return total


def test_on_demand_by_name_is_on_demand_in_the_plan() -> None:
    """Found by a review: the plan had spot machines, and the daemon bought none."""
    cheap = replace(SLOW, id="spot", purchase=Purchase.SPOT, price_per_hour_micros=100_000)
    asked = policy(0, 9, spot=True, placing="on-demand")
    assert planned(2.5, asked, SLOW, cheap) == {"slow": 2} == launched(2.5, asked, SLOW, cheap)


def test_at_the_same_price_it_is_no_spot_machine() -> None:
    """Found by the property above."""
    spot = replace(SLOW, id="a-spot", purchase=Purchase.SPOT)
    asked = policy(0, 9, spot=True)
    assert planned(2.5, asked, SLOW, spot) == {"slow": 2} == launched(2.5, asked, SLOW, spot)
    one = policy(1, 9, spot=True)
    assert planned(0.0, one, SLOW, spot) == {"slow": 1} == launched(0.0, one, SLOW, spot)


def test_what_is_never_to_be_spot_is_not_planned_on_spot() -> None:
    """Found by the property above: with spot machines alone the plan had one more than the daemon buys."""
    spot = replace(SLOW, id="spot", purchase=Purchase.SPOT)
    asked = policy(2, 2, spot=True, base_on_demand=1)
    assert planned(0.0, asked, spot) == {"spot": 1} == launched(0.0, asked, spot)
    answer = choice.fleet([spot], PROFILES, asked, 0.0, 2, 2)
    assert answer.winner is not None and "1 of them never spot, and there is nothing else" in answer.winner.reason


def test_a_base_that_is_all_there_is_has_its_own_reason_and_next_best() -> None:
    """Found by reading a plan: it named the spot machine's cost, and itself as the next best."""
    spot = replace(SLOW, id="spot", purchase=Purchase.SPOT, price_per_hour_micros=100_000)
    asked = policy(1, 9, spot=True, base_on_demand=1)
    answer = choice.fleet([spot, SLOW, FAST], PROFILES, asked, 0.0, 1, 9)
    assert answer.winner is not None and str(answer.winner) == "1 x L4 (cloud, on_demand)"
    assert "0.0500" in answer.winner.reason  # 1.8 an hour at 10 images a second
    assert answer.runner_up is not None and "T4 (cloud, on_demand)" in str(answer.runner_up)


def test_a_later_provider_is_not_preferred_for_its_price() -> None:
    """Found by a property: spot pools were compared by price alone, wherever they are."""
    near = replace(SLOW, id="near", provider="near", purchase=Purchase.SPOT, price_per_hour_micros=900_000)
    far = replace(near, id="far", provider="cloud", price_per_hour_micros=100_000)
    dear = replace(SLOW, id="dear", provider="cloud", price_per_hour_micros=800_000)
    asked = policy(1, 9, spot=True, providers=("near", "cloud"))
    assert planned(1.0, asked, near, far, dear) == {"near": 1} == launched(1.0, asked, near, far, dear)
