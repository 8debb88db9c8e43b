"""Price over measured throughput: who is chosen, who never is, and why."""

from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.selection import choose, rank
from policies.snapshot import Offer, Profile, Purchase
from policies.throughput import cost_per_1000_micros, gpu_key, measured, of_size

MODEL = "cv"


def offer(gpu: str, price: float | None, purchase: Purchase = Purchase.ON_DEMAND, currency: str = "CNY") -> Offer:
    micros = None if price is None else round(price * 1_000_000)
    return Offer(
        id=f"{gpu}/{purchase}",
        provider="p",
        zone="z",
        instance_type="t",
        gpu=gpu,
        purchase=purchase,
        price_per_hour_micros=micros,
        currency=currency if price is not None else "",
    )


def profile(gpu: str, seconds: float | None, source: str = "seed", batch: int = 1, p95: float | None = None) -> Profile:
    return Profile(
        model=MODEL,
        gpu=gpu,
        precision="fp32",
        batch=batch,
        images_per_second=None if seconds is None else 1 / seconds,
        p95_ms=p95 if p95 is not None or seconds is None else seconds * 1000,
        source=source,
    )


#: the published table: price per hour, seconds per image
TABLE = {"A100": (12.00, None), "V100": (8.50, None), "RTX 3090": (4.20, 0.2), "RTX 3060": (1.80, 0.4)}
TABLE |= {"GTX 1060": (0.90, 0.9), "i7-10700K": (None, 3.1)}
OFFERS = [offer(gpu, price) for gpu, (price, _) in TABLE.items()]
PROFILES = [profile(gpu, seconds) for gpu, (_, seconds) in TABLE.items() if seconds is not None]


@pytest.mark.parametrize(
    ("price", "speed", "cost"),
    [
        (4_200_000, 1 / 0.2, 233_333),
        (1_800_000, 1 / 0.4, 200_000),
        (900_000, 1 / 0.9, 225_000),
        (None, 2.5, None),
        (1_800_000, None, None),
        (1_800_000, 0.0, None),
        (0, 2.5, 0),
    ],
)
def test_cost_per_1000(price: int | None, speed: float | None, cost: int | None) -> None:
    assert cost_per_1000_micros(price, speed) == cost


@pytest.mark.parametrize(
    ("bound", "winner", "runner_up"),
    [
        (None, "RTX 3060", "GTX 1060"),
        (1000, "RTX 3060", "GTX 1060"),
        (400, "RTX 3060", "RTX 3090"),
        (399.9, "RTX 3090", None),
        (300, "RTX 3090", None),
        (200, "RTX 3090", None),
        (199, None, None),
    ],
)
def test_the_published_table(bound: float | None, winner: str | None, runner_up: str | None) -> None:
    choice = choose(OFFERS, PROFILES, MODEL, bound)
    assert (choice.winner and choice.winner.offer.gpu) == winner
    assert (choice.runner_up and choice.runner_up.offer.gpu) == runner_up
    assert choice.reason


def test_unknown_is_left_out_with_its_reason() -> None:
    verdicts = {row.offer.gpu: row for row in rank(OFFERS, PROFILES, MODEL)}
    assert not verdicts["A100"].eligible and verdicts["A100"].reason == "speed not measured"
    assert verdicts["A100"].cost_per_1000_micros is None
    assert not verdicts["i7-10700K"].eligible and verdicts["i7-10700K"].reason == "price unknown"
    assert verdicts["RTX 3060"].reason == "cheapest per image: 0.2000 CNY per 1,000"
    assert verdicts["GTX 1060"].reason == "+12% per image"


def test_a_cheap_unmeasured_gpu_is_tried_only_on_request_and_last() -> None:
    offers = [*OFFERS, offer("T4", 0.10)]
    assert choose(offers, PROFILES, MODEL).winner.offer.gpu == "RTX 3060"  # type: ignore[union-attr]
    eligible = [row.offer.gpu for row in rank(offers, PROFILES, MODEL, try_unmeasured=True) if row.eligible]
    assert eligible == ["RTX 3060", "GTX 1060", "RTX 3090", "T4", "V100", "A100"]


@pytest.mark.parametrize(
    ("price", "seconds", "bound", "eligible", "words"),
    [
        (None, 0.5, None, True, "own machine, price unknown"),
        (None, None, None, True, "own machine, price unknown"),
        (1.0, None, None, True, "own machine, speed not measured"),
        (None, None, 300, True, "own machine, price unknown"),
        (None, 0.5, 300, False, "p95 0.5 s, wanted 0.3 s"),
        (3.0, 0.5, None, True, "+108% per image"),
    ],
)
def test_an_own_machine_stays_eligible(
    price: float | None, seconds: float | None, bound: float | None, eligible: bool, words: str
) -> None:
    mine = offer("mine", price, Purchase.OWNED)
    profiles = [*PROFILES, *([profile("mine", seconds)] if seconds else [])]
    alone = rank([mine], profiles, MODEL, bound)
    assert [row.eligible for row in alone] == [eligible]
    among = {row.offer.gpu: row for row in rank([mine, *OFFERS], profiles, MODEL, bound)}
    assert words in among["mine"].reason
    # beside offers of known cost it never wins by being unknown
    assert choose([mine, *OFFERS], profiles, MODEL, bound).winner.offer.gpu != "mine"  # type: ignore[union-attr]


def test_own_measurements_silence_published_ones() -> None:
    own = profile("NVIDIA GeForce RTX 3090", 0.1, source="bench")
    assert measured([*PROFILES, own], MODEL, "RTX 3090") == own
    assert choose(OFFERS, [*PROFILES, own], MODEL).winner.offer.gpu == "RTX 3090"  # type: ignore[union-attr]
    slow = profile("RTX 3060", 2.0, source="bench")
    assert measured([slow, *PROFILES], MODEL, "RTX 3060") == slow


def test_the_fastest_batch_that_keeps_the_bound_speaks() -> None:
    one = profile("T4", 0.2, batch=1, p95=200)
    eight = profile("T4", 0.1, batch=8, p95=900)
    assert measured([one, eight], MODEL, "T4") == eight
    assert measured([one, eight], MODEL, "T4", 300) == one
    assert measured([one, eight], MODEL, "T4", 100) == one, "nearest to the bound, so that the reason can say it"
    unknown_p95 = Profile(
        model=MODEL, gpu="L4", precision="fp16", batch=1, images_per_second=9.0, p95_ms=None, source="bench"
    )
    (verdict,) = rank([offer("L4", 1.0)], [unknown_p95], MODEL, 300)
    assert not verdict.eligible and "p95 unknown" in verdict.reason


def test_a_speed_on_small_images_is_not_the_gpus_speed_but_that_of_its_class() -> None:
    both = profile("T4", 1.0, "bench")
    small = replace(both, images_per_second=9.0, size="small")
    other = profile("L4", 0.5, "bench")
    every = (both, small, other)
    assert measured(every, MODEL, "T4") == both
    assert measured(of_size(every, "small"), MODEL, "T4") == replace(small, size="")
    assert measured(of_size(every, "large"), MODEL, "T4") == both
    assert measured(of_size(every, "small"), MODEL, "L4") == other  # not measured by size: that of all
    assert of_size(every, "") == (both, other)


def test_another_currency_needs_a_rate() -> None:
    dollars = offer("L4", 0.10, currency="USD")
    profiles = [*PROFILES, profile("L4", 0.4)]
    without = {row.offer.gpu: row for row in rank([*OFFERS, dollars], profiles, MODEL)}
    assert not without["L4"].eligible and without["L4"].reason == "no rate from USD to CNY"
    with_rate = rank([*OFFERS, dollars], profiles, MODEL, currency="CNY", rates={"USD": Fraction("7.10")})
    assert with_rate[0].offer.gpu == "L4"
    assert with_rate[0].cost_per_1000_micros == 78_889  # 0.10 x 7.10 x 0.4 / 3.6


def test_no_offers_is_said() -> None:
    assert choose([], PROFILES, MODEL).reason == "nothing to choose (no offers)"
    assert "A100: speed not measured" in choose([offer("A100", 12.0)], PROFILES, MODEL).reason


@pytest.mark.parametrize(
    ("one", "other"),
    [("NVIDIA GeForce RTX 3060", "rtx 3060"), ("Tesla T4", "T4"), ("NVIDIA A10", "A10")],
)
def test_one_gpu_by_two_names(one: str, other: str) -> None:
    assert gpu_key(one) == gpu_key(other)
    assert gpu_key("RTX 3060") != gpu_key("RTX 3060 Ti")


prices = st.none() | st.integers(1, 20_000_000)
speeds = st.none() | st.floats(0.01, 100)


@given(st.lists(st.tuples(prices, speeds, st.booleans()), max_size=8), st.none() | st.floats(10, 5000), st.booleans())
def test_a_rented_unknown_never_wins(
    machines: list[tuple[int | None, float | None, bool]], bound: float | None, try_unmeasured: bool
) -> None:
    offers, profiles = [], []
    for number, (price, speed, owned) in enumerate(machines):
        purchase = Purchase.OWNED if owned else Purchase.ON_DEMAND
        offers.append(offer(f"g{number}", None if price is None else price / 1e6, purchase))
        profiles.append(profile(f"g{number}", None if speed is None else 1 / speed))
    winner = choose(offers, profiles, MODEL, bound, try_unmeasured=try_unmeasured).winner
    ranked = rank(offers, profiles, MODEL, bound, try_unmeasured=try_unmeasured)
    costs = [row.cost_per_1000_micros for row in ranked if row.eligible and row.cost_per_1000_micros is not None]
    assert costs == sorted(costs)
    if winner is None:
        return
    if costs:
        assert winner.cost_per_1000_micros == costs[0]
    elif winner.offer.purchase is not Purchase.OWNED:
        assert try_unmeasured and winner.offer.price_per_hour_micros is not None


def test_memory_of_the_pool_is_none_of_its_business() -> None:
    tired = Offer(
        id="x", provider="p", zone="z", instance_type="t", gpu="RTX 3060", purchase=Purchase.SPOT,
        price_per_hour_micros=1, currency="CNY", refusals=9, refused_at=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    assert rank([tired], PROFILES, MODEL)[0].eligible
