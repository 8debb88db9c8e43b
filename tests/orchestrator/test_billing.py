"""Charges: parts always add up to the whole, and what is unknown stays unknown."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.billing import Charge, accrued, between, elapsed_microseconds, hours

START = datetime(2026, 10, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def charge(price: int | None = 1_800_000, end: datetime | None = None, amount: int | None = None) -> Charge:
    return Charge(started_at=START, ended_at=end, price_per_hour_micros=price, currency="CNY", amount_micros=amount)


@pytest.mark.parametrize(
    ("it", "at", "due"),
    [
        (charge(), START - HOUR, 0),
        (charge(), START, 0),
        (charge(), START + HOUR, 1_800_000),
        (charge(), START + timedelta(seconds=1), 500),
        (charge(price=1), START + timedelta(minutes=59), 0),
        (charge(end=START + HOUR), START + 5 * HOUR, 1_800_000),
        (charge(end=START), START + HOUR, 0),
        (charge(price=0), START + HOUR, 0),
        (charge(price=None), START + HOUR, None),
        (charge(amount=-250), START, 0),
        (charge(amount=-250), START + timedelta(microseconds=1), -250),
        (charge(price=None, amount=700), START + HOUR, 700),
    ],
)
def test_accrued(it: Charge, at: datetime, due: int | None) -> None:
    assert accrued(it, at) == due


def test_a_correction_belongs_to_the_moment_it_was_booked() -> None:
    it = charge(amount=-250)
    assert between(it, START, START + HOUR) == -250
    assert between(it, START - HOUR, START) == 0
    assert between(it, START + HOUR, START + 2 * HOUR) == 0
    assert elapsed_microseconds(it, START + HOUR) == 0


def test_a_rate_is_applied_before_the_one_rounding() -> None:
    third = Charge(started_at=START, price_per_hour_micros=1, currency="USD")
    assert accrued(third, START + HOUR, rate=Fraction("7.10")) == 7
    assert accrued(third, START + 10 * HOUR, rate=Fraction("7.10")) == 71


def test_hours_are_exact() -> None:
    assert hours([charge(end=START + HOUR / 3), charge(end=START + HOUR / 3)], START, START + HOUR) == Fraction(2, 3)


moments = st.datetimes(datetime(2026, 9, 1), datetime(2026, 11, 30)).map(lambda d: d.replace(tzinfo=UTC))  # noqa: DTZ001


@given(
    st.integers(0, 50_000_000),
    moments,
    st.none() | moments,
    st.lists(moments, min_size=2, max_size=12),
    st.sampled_from([1, Fraction("7.10"), Fraction(1, 3)]),
)
def test_parts_add_up_to_the_whole(
    price: int, start: datetime, end: datetime | None, cuts: list[datetime], rate: Fraction | int
) -> None:
    it = Charge(
        started_at=start, ended_at=end if end is None else max(start, end), price_per_hour_micros=price, currency="CNY"
    )
    cuts.sort()
    parts = [between(it, a, b, rate=rate) for a, b in pairwise(cuts)]
    assert all(part is not None and part >= 0 for part in parts)
    whole = between(it, cuts[0], cuts[-1], rate=rate)
    assert sum(part or 0 for part in parts) == whole
    exact = Fraction(price) * rate * hours([it], cuts[0], cuts[-1])
    assert abs(exact - (whole or 0)) < 1
