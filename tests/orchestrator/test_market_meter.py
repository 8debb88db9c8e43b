"""What the simulated market's machines cost: prices that move, and a meter held against the ledger's arithmetic."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import billing
from orchestrator.billing import MICROSECOND, Life, Terms
from orchestrator.clock import VirtualClock
from orchestrator.providers import Priced
from orchestrator.providers.simulated import Conditions, Move, Outage, SimulatedProvider
from policies.snapshot import Offer, Purchase
from tests.orchestrator.market import NOW, ON_DEMAND, SPOT, ask, at, market

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR = 3_600_000_000
PRICE = 1_234_567


def move(seconds: float, price: int, offer: Offer = SPOT) -> Move:
    return Move(offer_id=offer.id, at=at(seconds), price_per_hour_micros=price)


def row(moment: datetime, price: int, offer: Offer = SPOT) -> Priced:
    return Priced(offer_id=offer.id, price_per_hour_micros=price, currency="CNY", effective_at=moment)


def prices_now(provider: SimulatedProvider) -> list[int | None]:
    return [one.price_per_hour_micros for one in provider.offers()]


# prices


def test_without_moves_the_first_prices_are_in_force_since_ever() -> None:
    provider = market(offers=(SPOT, ON_DEMAND))
    first = (row(EPOCH, PRICE), row(EPOCH, 3_000_001, ON_DEMAND))
    assert provider.prices(EPOCH) == provider.prices(NOW) == provider.prices(at(9999)) == first


def test_prices_move_in_the_offers_at_their_moment_and_in_the_history_for_good() -> None:
    clock = VirtualClock(NOW)
    moves = (move(200, 7), move(100, 5), move(150, 6, ON_DEMAND), move(300, 9))
    provider = market(clock, offers=(SPOT, ON_DEMAND), moves=moves)
    first = (row(EPOCH, PRICE), row(EPOCH, 3_000_001, ON_DEMAND))
    for second, spot, on_demand in ((99, PRICE, 3_000_001), (100, 5, 3_000_001), (150, 5, 6), (200, 7, 6)):
        clock.jump(at(second))
        assert prices_now(provider) == [spot, on_demand]
        assert {one.id for one in provider.offers()} == {SPOT.id, ON_DEMAND.id}
    dearer = (row(at(100), 5), row(at(150), 6, ON_DEMAND), row(at(200), 7))
    assert provider.prices(EPOCH) == provider.prices(at(99)) == (*first, *dearer)
    assert provider.prices(at(100)) == (first[1], *dearer)  # at its very moment it is in force
    assert provider.prices(at(160)) == dearer
    assert provider.prices(at(200)) == provider.prices(at(250)) == dearer[1:]  # nothing of what is to come
    clock.jump(at(100))
    assert prices_now(provider) == [5, 3_000_001]
    assert provider.prices(at(5000)) == (first[1], dearer[0])


def test_a_move_that_changes_nothing_is_none() -> None:
    clock = VirtualClock(at(1000))
    provider = market(clock, offers=(SPOT,), moves=(move(1, PRICE), move(2, 3), move(3, 8), move(3, 3), move(4, 5)))
    assert provider.prices(NOW) == (row(EPOCH, PRICE), row(at(2), 3), row(at(4), 5))


def test_a_price_of_what_is_not_on_offer_cannot_move() -> None:
    with pytest.raises(ValueError, match="on_demand"):
        market(offers=(SPOT,), moves=(move(1, 1, ON_DEMAND),))


# the meter, by hand

MINUTE = Terms(minimum_seconds=60)
FREE = Terms(first_hour_free=True, minimum_seconds=60, disk_per_hour_micros=100_000)
DISK = Terms(disk_per_hour_micros=100_000)
Steps = tuple[tuple[float, str], ...]


def lived(*steps: tuple[float, str], offer: Offer = SPOT, until: float | None = None, **conditions: Any) -> int:
    """What a machine launched at 0 has cost, after what was done to it at its seconds."""
    clock = VirtualClock(NOW)
    provider = market(clock, **conditions)
    provider.launch(ask("a", offer))
    for seconds, step in steps:
        clock.jump(at(seconds))
        if step == "end":
            provider.terminate("m-a")
        else:
            getattr(provider, step)("a")
    clock.jump(at(20_000))
    return provider.meter(None if until is None else at(until))["a"]


def micros(price: int, seconds: int) -> int:
    return price * seconds // 3600


LIVES: dict[str, tuple[int, Steps, dict[str, Any]]] = {
    "every microsecond, rounded down": (PRICE * 7_000_003 // HOUR, ((7.000003, "end"),), {}),
    "nothing at its launch": (0, ((7, "end"),), {"until": 0}),
    "nothing before": (0, ((7, "end"),), {"until": -1, "terms": FREE}),
    "so far": (micros(PRICE, 5), ((7, "end"),), {"until": 5}),
    "a move": (micros(PRICE, 10) + micros(7_777_777, 20), ((30, "end"),), {"moves": (move(10, 7_777_777),)}),
    "a move at its end": (micros(PRICE, 30), ((30, "end"),), {"moves": (move(30, 9),)}),
    "a move at its launch": (micros(9_000, 30), ((30, "end"),), {"moves": (move(0, 9_000),)}),
    "a move before": (micros(9_000, 30), ((30, "end"),), {"moves": (move(-5, 9_000),)}),
    "another offer's move": (micros(PRICE, 30), ((30, "end"),), {"moves": (move(10, 9_000, ON_DEMAND),)}),
    "the minimum": (micros(PRICE, 60), ((7, "end"),), {"terms": MINUTE}),
    "no minimum before it is over": (micros(PRICE, 6), ((7, "end"),), {"terms": MINUTE, "until": 6}),
    "the minimum costs the last price": (
        micros(PRICE, 10) + micros(3_600_000, 50),
        ((20, "end"),),
        {"terms": MINUTE, "moves": (move(10, 3_600_000), move(30, 1))},
    ),
    "taken back in its first hour: its disk": (50_000, ((1800, "lose"),), {"terms": FREE}),
    "a microsecond less than an hour": (99_999, ((3599.999999, "lose"),), {"terms": FREE}),
    "an hour": (PRICE + 100_000, ((3600, "lose"),), {"terms": FREE}),
    "not free when we ended it": (micros(PRICE, 1800) + 50_000, ((1800, "end"),), {"terms": FREE}),
    "nor when it ended by itself": (micros(PRICE, 1800) + 50_000, ((1800, "crash"),), {"terms": FREE}),
    "nor on demand": (1_550_000, ((1800, "lose"),), {"terms": FREE, "offer": ON_DEMAND}),
    "nor before it is known": (micros(PRICE, 900) + 25_000, ((1800, "lose"),), {"terms": FREE, "until": 900}),
    "stopped, its disk is paid": (micros(PRICE, 900) + 50_000, ((900, "stop"), (1800, "end")), {"terms": DISK}),
    "two spells": (
        2 * micros(PRICE, 900) + 100_000,
        ((900, "stop"), (1800, "start"), (2700, "stop"), (3600, "end")),
        {"terms": DISK},
    ),
    "in its second spell": (
        micros(PRICE, 900) + micros(PRICE, 10),
        ((900, "stop"), (1800, "start"), (2700, "end")),
        {"until": 1810},
    ),
    "it moved while the machine was off": (
        micros(PRICE, 900) + micros(3_600_000, 900),
        ((900, "stop"), (1800, "start"), (2700, "end")),
        {"moves": (move(1000, 5), move(1700, 3_600_000))},
    ),
    "every time it is switched on has its minimum": (
        micros(PRICE, 60) + micros(PRICE, 60),
        ((10, "stop"), (1800, "start"), (1820, "end")),
        {"terms": MINUTE},
    ),
    "be it switched on again within it": (
        micros(PRICE, 60) + micros(PRICE, 70),
        ((10, "stop"), (20, "start"), (90, "end")),
        {"terms": MINUTE},
    ),
    "not before it is over": (
        micros(PRICE, 10) + micros(PRICE, 5),
        ((10, "stop"), (20, "start"), (90, "end")),
        {"terms": MINUTE, "until": 25},
    ),
    "the first hour is free from the launch, whatever was switched": (
        50_000,
        ((10, "stop"), (20, "start"), (1800, "lose")),
        {"terms": FREE},
    ),
}


@pytest.mark.parametrize("name", LIVES)
def test_the_meter(name: str) -> None:
    due, steps, more = LIVES[name]
    assert lived(*steps, **more) == due


def test_a_machine_of_a_forgotten_offer_goes_on_at_its_price(tmp_path: Path) -> None:
    """A market in a file outlives its conditions."""
    clock, path = VirtualClock(NOW), tmp_path / "market.json"
    SimulatedProvider(clock, Conditions(offers=(SPOT,), moves=(move(-1, 7_200),)), path).launch(ask())
    clock.jump(at(3600))
    assert SimulatedProvider(clock, Conditions(offers=()), path).meter() == {"a": 7_200}


@pytest.mark.parametrize("steps", ["end", "stop end", "stop start end", "stop start stop start end"])
def test_a_clock_that_was_set_back_makes_nothing_cheaper(steps: str) -> None:
    back = tuple((-number, step) for number, step in enumerate(steps.split(), 1))
    assert lived(*back, terms=DISK) == 0


# the meter, against the ledger's arithmetic

#: moments in microseconds: any, and those at which rules change
MOMENTS = st.one_of(
    st.integers(0, 2 * HOUR),
    st.sampled_from([0, 1, 30_000_000, 60_000_000, 60_000_001, HOUR - 1, HOUR, HOUR + 1]),
)
PRICES = st.integers(0, 9_999_999)
TERMS = st.builds(
    Terms,
    minimum_seconds=st.sampled_from([0, 1, 60, 3600]),
    first_hour_free=st.booleans(),
    disk_per_hour_micros=st.sampled_from([0, 1, 123_457]),
)


def micro(moment: int) -> datetime:
    return NOW + timedelta(microseconds=moment)


@given(
    offer=st.sampled_from([SPOT, ON_DEMAND]),
    moves=st.lists(st.tuples(MOMENTS, PRICES), max_size=5),
    launched=MOMENTS,
    life=MOMENTS,
    stopped=st.none() | MOMENTS,
    end=st.sampled_from(["end", "lose", "crash", "outage"]),
    asked=MOMENTS,
    terms=TERMS,
)
def test_the_meter_is_what_the_bill_says(
    offer: Offer,
    moves: list[tuple[int, int]],
    launched: int,
    life: int,
    stopped: int | None,
    end: str,
    asked: int,
    terms: Terms,
) -> None:
    """Of any life: what it has cost when it is over, and at any moment before."""
    ended = launched + life
    stopped = None if stopped is None or stopped >= life else launched + stopped
    outage = Outage(zone=SPOT.zone, start=micro(ended), end=micro(ended + 1))
    clock = VirtualClock(micro(launched))
    moved = tuple(Move(offer_id=offer.id, at=micro(moment), price_per_hour_micros=price) for moment, price in moves)
    by_outage = end == "outage" and offer is SPOT and stopped is None and life > 0
    provider = market(clock, offers=(offer,), moves=moved, terms=terms, outages=(outage,) if by_outage else ())
    provider.launch(ask("a", offer))
    if stopped is not None:
        clock.jump(micro(stopped))
        provider.stop("a")
    clock.jump(micro(ended))
    if not by_outage:
        provider.lose("a") if end == "lose" else provider.terminate("m-a")
    clock.jump(micro(8 * HOUR))
    prices = [(one.effective_at, one.price_per_hour_micros or 0) for one in provider.prices(micro(launched)) or ()]
    reclaimed = offer.purchase is Purchase.SPOT and (by_outage or end == "lose")
    whole = Life(
        launched_at=micro(launched),
        ended_at=micro(ended),
        stops=() if stopped is None else ((micro(stopped), None),),
        reclaimed=reclaimed,
    )
    assert provider.meter() == {"a": billing.due(whole, prices, terms) + terms.disk_per_hour_micros * life // HOUR}

    until = min(launched + asked, ended - 1)
    if until >= launched:
        part = replace(whole, ended_at=micro(until), reclaimed=False)
        disk = terms.disk_per_hour_micros * (until - launched) // HOUR
        assert provider.meter(micro(until)) == {"a": billing.due(part, prices, Terms()) + disk}


@given(
    moves=st.lists(st.tuples(MOMENTS, PRICES), max_size=5),
    turns=st.lists(MOMENTS, min_size=1, max_size=6, unique=True),
    asked=MOMENTS,
    terms=TERMS,
)
def test_every_spell_of_a_machine_is_billed_as_a_life(
    moves: list[tuple[int, int]], turns: list[int], asked: int, terms: Terms
) -> None:
    """Switched off and on again at random: what it has cost while it is there, and when it is over."""
    clock = VirtualClock(NOW)
    moved = tuple(Move(offer_id=SPOT.id, at=micro(moment), price_per_hour_micros=price) for moment, price in moves)
    provider = market(clock, offers=(SPOT,), moves=moved, terms=terms)
    provider.launch(ask())
    edges = [0, *sorted(turns)]
    for number, moment in enumerate(edges[1:]):
        clock.jump(micro(moment))
        provider.start("a") if number % 2 else provider.stop("a")
    clock.jump(micro(3 * HOUR))
    due = 0
    for start, end in zip(edges[::2], [*edges[1::2], 3 * HOUR], strict=False):
        if start <= asked:
            prices = [(one.effective_at, one.price_per_hour_micros or 0) for one in provider.prices(micro(start)) or ()]
            due += billing.due(Life(launched_at=micro(start), ended_at=micro(min(end, asked))), prices, Terms())
    disk = terms.disk_per_hour_micros
    assert provider.meter(micro(asked)) == {"a": due + disk * asked // HOUR}
    provider.terminate("m-a")
    ended = micro(3 * HOUR)
    (over,) = provider.instances()
    life = Life(launched_at=NOW, ended_at=ended, stops=over.stops)
    prices = [(one.effective_at, one.price_per_hour_micros or 0) for one in provider.prices(NOW) or ()]
    whole = billing.due(life, prices, terms) + disk * 3
    assert provider.meter() == {"a": whole}
    runs = sum(
        max(end - start, timedelta(seconds=terms.minimum_seconds)) // MICROSECOND for start, end in life.spells()
    )
    if not moved:
        assert abs(whole - disk * 3 - PRICE * runs // HOUR) < len(edges)
