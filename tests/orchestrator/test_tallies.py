"""What the database sums is what every charge comes to by itself, to the micro-unit, wherever it is cut."""

import random
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa

from orchestrator.ledger import reporting, sums
from orchestrator.ledger import tables as t
from orchestrator.ledger.tallies import Tally, tallies
from orchestrator.reports.reckoning import reckon
from policies.windows import Span
from tests.orchestrator.report_ledger import Rows, rows_in

MONTH = datetime(2026, 10, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MACHINES = (
    ("a", "T4", "spot", "aws"),
    ("a", "T4", "spot", "shop"),
    ("a", "T4", "on_demand", "aws"),
    ("b", "CPU", "owned", "local"),
)
#: an hour of a fleet in dong, whose product with a second in microseconds is beyond 64 bits; up to what a list may say
PRICES = (None, 0, 1, 1_234_567, 95_000_000_000, 999_999_999_999)
RATES: dict[str, dict[str, Fraction | int]] = {
    "plain": {"CNY": 1},
    "dated": {"CNY": 1, "USD": Fraction("7.10"), "EUR": Fraction("8.1234")},
    "detailed": {"CNY": 1, "USD": Fraction("7.123456789"), "EUR": Fraction(1, 3)},
}
Figures = tuple[int | None, int | None, int]


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    opened = rows_in(tmp_path)
    yield opened
    opened.ledger.close()


def book(rows: Rows, drawn: random.Random, edges: list[datetime], count: int) -> None:
    """Charges of every kind, many of which begin and end beside an edge or on it, and many a few edges long."""
    machines = [rows.machine(name, gpu, purchase, provider) for name, gpu, purchase, provider in MACHINES]

    def moment() -> datetime:
        near = drawn.choice(edges) + drawn.choice([-1, 0, 1]) * MICROSECOND
        anywhere = MONTH + timedelta(microseconds=drawn.randrange(-10 * 86_400_000_000, 40 * 86_400_000_000))
        return drawn.choice([near, anywhere, anywhere])

    for number in range(count):
        start, end = sorted((moment(), moment()))
        if drawn.random() < 0.7:
            end = start + timedelta(microseconds=drawn.randrange(2 * 86_400_000_000))
        amount = drawn.randrange(-5_000_000, 5_000_000) if number % 7 == 0 else None
        kind = drawn.choice(["compute", "compute", "disk"])
        currency = drawn.choice(["CNY", "CNY", "USD", "EUR", "GBP"])
        ended = None if amount is not None or number % 11 == 0 else end
        rows.charge(drawn.choice(machines), start, ended, drawn.choice(PRICES), currency, kind=kind, amount=amount)


def kind_of(one: Tally) -> tuple[object, ...]:
    return (one.deployment, one.provider, one.gpu, one.purchase, one.kind, one.is_machine_time)


def by_sum(found: tuple[Tally, ...]) -> dict[tuple[object, ...], Figures]:
    added: dict[tuple[object, ...], Figures] = {}
    for one in found:
        converted = one.micros is not None, one.foreign_micros is not None
        key = (*kind_of(one), one.currency, *converted)
        micros, foreign, elapsed = added.get(key, (0, 0, 0))
        more = (micros or 0) + (one.micros or 0), (foreign or 0) + (one.foreign_micros or 0), elapsed + one.elapsed
        added[key] = more
    return added


def by_charge(tx: sa.Connection, span: Span, rates: dict[str, Fraction | int]) -> dict[tuple[object, ...], Figures]:
    added: dict[tuple[object, ...], Figures] = {}
    for one in reckon(reporting.charges(tx, span.opens_at, span.closes_at), span, rates):
        whose = one.booked
        kind = (whose.deployment, whose.provider, whose.gpu, whose.purchase, whose.kind, one.is_machine_time)
        key = (*kind, whose.charge.currency, one.micros is not None, one.foreign_micros is not None)
        micros, foreign, elapsed = added.get(key, (0, 0, 0))
        more = (micros or 0) + (one.micros or 0), (foreign or 0) + (one.foreign_micros or 0), elapsed + one.elapsed
        added[key] = more
    return added


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rates", list(RATES))
def test_every_sum_is_that_of_its_charges(rows: Rows, seed: int, rates: str) -> None:
    drawn = random.Random(f"{seed} {rates}")
    edges = sorted({MONTH + timedelta(hours=drawn.randrange(31 * 24)) for _ in range(drawn.choice([2, 3, 12]))})
    book(rows, drawn, edges, 150)
    with rows.ledger.read() as tx:
        found = tallies(tx, edges, RATES[rates])
        assert by_sum(found) == by_charge(tx, Span(opens_at=edges[0], closes_at=edges[-1]), RATES[rates])
        for start, end in pairwise(edges):
            inside = tuple(one for one in found if start <= one.starts_at < end)
            assert by_sum(inside) == by_charge(tx, Span(opens_at=start, closes_at=end), RATES[rates])
            assert all(one.starts_at <= one.ends_at <= end for one in inside)
        mine = tallies(tx, edges, RATES[rates], "a")
        assert mine == tuple(one for one in found if one.deployment == "a")
    assert found


def test_it_begins_with_the_first_and_ends_with_the_last(rows: Rows) -> None:
    """Of several charges of a kind: the earliest start and the latest end between two edges."""
    machine = rows.machine("a", "T4", "spot")
    hours = [MONTH + timedelta(hours=hour) for hour in range(9)]
    rows.charge(machine, hours[1], hours[2], 1_000_000)
    rows.charge(machine, hours[3], hours[6], 1_000_000)
    with rows.ledger.read() as tx:
        found = tallies(tx, (hours[0], hours[4], hours[8]), {"CNY": 1})
    assert [(one.starts_at, one.ends_at, one.micros) for one in found] == [
        (hours[1], hours[4], 2_000_000),
        (hours[4], hours[6], 2_000_000),
    ]


def test_nothing_is_charged_before_the_first_moment_or_without_a_stretch(rows: Rows) -> None:
    rows.charge(rows.machine("a"), MONTH, None, 1_000_000)
    with rows.ledger.read() as tx:
        assert tallies(tx, (MONTH,), {}) == () == tallies(tx, (), {})
        assert tallies(tx, (MONTH - timedelta(days=1), MONTH), {}) == ()


def test_a_budget_in_a_small_currency_is_exact(rows: Rows) -> None:
    """95,000 dong an hour, for half an hour and a microsecond: the product is beyond 64 bits. Each of three is rounded
    down by itself.
    """
    end = MONTH + timedelta(minutes=30, microseconds=1)
    for _ in range(3):
        rows.charge(rows.machine("a"), MONTH, end, 95_000_000_000, "VND")
    with rows.ledger.read() as tx:
        found = sums.closed(tx, "a", MONTH, end)
    assert found == {"VND": (3 * (95_000_000_000 * 1_800_000_001 // 3_600_000_000), 3 * 1_800_000_001)}


def test_few_rows_are_read_of_many(rows: Rows) -> None:
    """What ends in the stretch in which it began, or in the next one, is never read by itself."""
    row: dict[str, object] = {"instance_id": rows.machine("a"), "deployment": "a", "kind": "compute", "gpu": "T4"}
    row |= {"purchase": "spot", "currency": "CNY", "price_per_hour_micros": 7}
    starts = [MONTH + timedelta(minutes=minute) for minute in range(10_000)]
    with rows.ledger.write() as tx:
        ended = [{"started_at": at, "ended_at": at + timedelta(minutes=5)} for at in starts]
        tx.execute(t.charges.insert(), [row | one for one in ended])
    days = [MONTH + timedelta(days=day) for day in range(8)]
    with rows.ledger.read() as tx:
        tallies(tx, days[:2], {"CNY": 1})  # what is prepared once
        tracemalloc.start()
        found = tallies(tx, days, {"CNY": 1})
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert sum(one.elapsed for one in found) == 10_000 * 300_000_000 and len(found) == 7
    assert most < 500_000, "bytes; ten thousand rows would take millions"
