"""What another tool's report was seen to get wrong, asked of ours."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from orchestrator.ledger import offers
from orchestrator.reports.month import MonthReport, month, of_ledger
from orchestrator.reports.terminal import text
from policies.snapshot import Offer, Purchase
from tests.orchestrator.report_ledger import Rows, rows_in, utc

PRICE = 800_000


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    opened = rows_in(tmp_path)
    yield opened
    opened.ledger.close()


def report(rows: Rows, month_text: str, now: str = "2029-01-01") -> MonthReport:
    return month(rows.ledger, month_text, now=utc(now), zone=ZoneInfo("UTC"), currency="CNY")


def offer(price: int | None) -> Offer:
    return Offer(
        id="o", provider="simulated", zone="", instance_type="", gpu="RTX 3060", purchase=Purchase.ON_DEMAND,
        price_per_hour_micros=price, currency="CNY" if price is not None else "",
    )  # fmt: skip


def test_a_machine_up_for_90_days_costs_a_month_of_it(rows: Rows) -> None:
    """90 days at 0.80 are 1,728.00; the 29 of February among them are 556.80."""
    start = utc("2028-01-15")
    rows.charge(rows.machine(), start, start + timedelta(days=90), PRICE)
    parts = [report(rows, f"2028-{number:02}").total_micros for number in range(1, 5)]
    assert parts == [17 * 24 * PRICE, 556_800_000, 31 * 24 * PRICE, 13 * 24 * PRICE]
    assert sum(part or 0 for part in parts) == 1_728_000_000


def test_the_total_is_of_every_row_whatever_is_shown(rows: Rows) -> None:
    for number in range(40):
        machine = rows.machine(f"deployment-{number}", gpu=f"GPU {number % 7}")
        rows.charge(machine, utc("2028-02-01"), utc("2028-02-03"), PRICE)
    found = report(rows, "2028-02")
    assert found.total_micros == 40 * 48 * PRICE
    for width in (80, 140):
        page = text(found, width=width)
        assert "1,536.00" in page and page.count("deployment-") == 40


def test_the_past_keeps_the_price_that_was_in_force(rows: Rows) -> None:
    with rows.ledger.write() as tx:
        offers.record(tx, [offer(PRICE)], "list", utc("2028-01-01"))
    rows.charge(rows.machine(), utc("2028-02-01"), utc("2028-02-11"), PRICE)
    before = report(rows, "2028-02")
    with rows.ledger.write() as tx:
        offers.record(tx, [offer(10 * PRICE)], "list", utc("2028-03-01"))
    after = report(rows, "2028-02")
    assert before.total_micros == after.total_micros == 240 * PRICE
    assert before.rows == after.rows and before.days == after.days


def test_a_type_that_nobody_offers_any_more_still_costs(rows: Rows) -> None:
    """Neither an offer, nor a price, nor a spec speaks of it: the charge alone does."""
    rows.charge(rows.machine("gone", gpu="K80"), utc("2028-02-01"), utc("2028-02-11"), PRICE)
    found = of_ledger(rows.ledger, "2028-02", utc("2028-03-01"))
    assert (found.total_micros, found.rows[0].gpu) == (240 * PRICE, "K80")
    with rows.ledger.write() as tx:
        offers.record(tx, [offer(None)], "list", utc("2028-02-05"))
    assert of_ledger(rows.ledger, "2028-02", utc("2028-03-01")).total_micros == 240 * PRICE
