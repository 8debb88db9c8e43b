"""What is spent by a month and a day: the database's sums against the plain arithmetic of every charge."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from orchestrator import billing
from orchestrator.ledger import sums
from orchestrator.ledger import tables as t
from orchestrator.ledger.store import Ledger
from orchestrator.spending import spend
from policies.policy import Policy
from tests.orchestrator.scene import Scene, always

ZONE = ZoneInfo("Asia/Shanghai")
NOW = datetime(2026, 11, 20, 12, 34, 56, 789_012, tzinfo=UTC)
DAY = datetime(2026, 11, 19, 16, tzinfo=UTC)  # midnight in Shanghai
MONTH = datetime(2026, 10, 31, 16, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
#: a day is a window, and so are the microseconds around its edges
EDGES = [edge + beside * MICROSECOND for edge in (MONTH, DAY, NOW) for beside in (-1, 0, 1)]


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    """One machine."""
    scene = Scene(home)
    scene.run(30)
    with scene.ledger.write() as tx:
        tx.execute(t.charges.delete())
    yield scene.ledger
    scene.ledger.close()


def book(
    ledger: Ledger, seed: int, currencies: tuple[str, ...], prices: tuple[int | None, ...], count: int = 300
) -> None:
    drawn = random.Random(seed)

    def moment() -> datetime:
        far = MONTH - timedelta(days=3) + timedelta(microseconds=drawn.randrange(24 * 86_400_000_000))
        return drawn.choice([far, far, far, *EDGES[:2], drawn.choice(EDGES)])

    rows = []
    for number in range(count):
        started, ended = sorted((moment(), moment()))
        row = {"instance_id": "ocr-1", "deployment": "ocr", "kind": "compute", "gpu": "T4", "purchase": "spot"}
        row |= {"currency": drawn.choice(currencies), "started_at": started, "ended_at": ended, "amount_micros": None}
        row |= {"price_per_hour_micros": drawn.choice(prices)}
        if number % 5 == 0:
            row |= {"ended_at": None, "amount_micros": drawn.randrange(-500_000, 500_000)}
        elif number % 97 == 1:
            row |= {"ended_at": None}
        rows.append(row)
    with ledger.write() as tx:
        tx.execute(t.charges.insert(), rows)


def plainly(ledger: Ledger, start: datetime, policy: Policy) -> tuple[int, Fraction]:
    total, unknown = 0, Fraction(0)
    with ledger.read() as tx:
        for row in sums.within(tx, "ocr", start, NOW):
            rate = 1 if row.currency == policy.currency else policy.rates.get(row.currency)
            if rate is None or billing.accrued(row, NOW) is None:
                unknown += billing.hours([row], start, NOW)
            else:
                total += billing.between(row, start, NOW, rate=rate) or 0
    return total, unknown


WISHES = Policy(model="m", schedule=replace(always(), zone=ZONE), providers=(), currency="CNY")
RATES = {"USD": Fraction("7.1234"), "EUR": Fraction(8)}


@pytest.mark.parametrize("currencies", [("CNY",), ("CNY", "USD"), ("CNY", "USD", "GBP"), ("GBP",)])
@pytest.mark.parametrize("prices", [(1_234_567, 1, 0), (1_234_567, None), (2_000_000_000, 999_999_999)])
@pytest.mark.parametrize("rates", [{}, RATES], ids=["no rates", "rates"])
def test_the_sum_is_that_of_the_parts_to_the_micro_unit(
    ledger: Ledger, currencies: tuple[str, ...], prices: tuple[int | None, ...], rates: dict[str, Fraction]
) -> None:
    policy = replace(WISHES, rates=rates)
    book(ledger, len(currencies) + len(prices), currencies, prices)
    with ledger.read() as tx:
        spent = spend(tx, "ocr", NOW, policy)
    month, unknown = plainly(ledger, MONTH, policy)
    assert (spent.month_micros, spent.day_micros) == (month, plainly(ledger, DAY, policy)[0])
    assert spent.unknown_hours == float(unknown)


def test_a_month_of_charges_is_not_read_row_by_row(ledger: Ledger) -> None:
    """Of twenty thousand that have ended, those are read that are on an edge of the window."""
    book(ledger, 1, ("CNY",), (1_234_567,), 20_000)
    with ledger.read() as tx:
        closed, rest = sums.closed(tx, "ocr", MONTH, NOW), sums.within(tx, "ocr", MONTH, NOW, summed=False)
        assert len(sums.within(tx, "ocr", MONTH, NOW)) > 15_000
    assert closed["CNY"][0] > 0
    before_and_running = [one for one in rest if one.started_at < MONTH or (one.ended_at or NOW) >= NOW]
    assert len(before_and_running) == len(rest)
