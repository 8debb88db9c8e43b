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
