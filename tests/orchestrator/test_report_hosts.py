"""Machines of one's own in a month's bill: rows of one GPU are merged, what each host cost is said beside them."""

from collections.abc import Iterator
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from orchestrator.ledger import owned
from orchestrator.reports.formats import to_json
from orchestrator.reports.month import MonthReport, month
from orchestrator.reports.terminal import text
from tests.orchestrator.report_ledger import Rows, rows_in, utc

START, HOUR = utc("2026-10-10 08:00"), timedelta(hours=1)


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    opened = rows_in(tmp_path)
    yield opened
    opened.ledger.close()


def october(rows: Rows) -> MonthReport:
    zone = ZoneInfo("UTC")
    return month(rows.ledger, "2026-10", now=utc("2027-01-01"), zone=zone, currency="CNY", terms=())


def ran(
    rows: Rows,
    host: str,
    hours: float,
    price: int | None,
    images: int = 0,
    provider: str = "ssh",
    currency: str = "CNY",
) -> None:
    one = rows.machine(provider=provider, purchase="owned", gpu="T4", zone=host)
    rows.charge(one, START, START + hours * HOUR, price, currency)
    if images:
        rows.images(one, START, images)


def test_each_host_has_its_own_cost_and_they_add_up_to_the_row(rows: Rows) -> None:
    ran(rows, "box1", 2, 333_333, images=40)
    ran(rows, "box1", 1.7, 102_000, images=2)
    ran(rows, "box2", 3.1, 900_001)
    ran(rows, "this", 0.3, 77, images=5, provider="local")
    rented = rows.machine(provider="simulated", gpu="T4", zone="sim-1")
    rows.charge(rented, START, START + HOUR, 5_000_000)
    report = october(rows)
    shown = [(one.provider, one.host, one.hours, one.cost_micros, one.images) for one in report.hosts]
    assert shown == [
        ("local", "this", Fraction(3, 10), 23, 5),
        ("ssh", "box1", Fraction(37, 10), 666_666 + 173_400, 42),
        ("ssh", "box2", Fraction(31, 10), 2_790_003, 0),
    ]
    (owned,) = [row for row in report.rows if row.purchase == "owned"]
    assert sum(one.cost_micros or 0 for one in report.hosts) == owned.cost_micros
    assert (sum(one.hours for one in report.hosts), sum(one.images for one in report.hosts)) == (owned.hours, 47)


def test_a_charge_is_clipped_to_the_month_and_what_is_unknown_is_said(rows: Rows) -> None:
    one = rows.machine(provider="ssh", purchase="owned", gpu="T4", zone="box1")
    rows.charge(one, utc("2026-09-30 22:00"), utc("2026-10-01 03:00"), 1_000_000)
    ran(rows, "box1", 1, None)
    ran(rows, "box2", 1, None)
    ran(rows, "box3", 1, 100, currency="USD")  # no rate
    report = october(rows)
    assert [(one.host, one.hours, one.unknown_hours, one.cost_micros) for one in report.hosts] == [
        ("box1", 4, 1, 3_000_000),
        ("box2", 1, 1, None),
        ("box3", 1, 1, None),
    ]
    lines = [line for line in text(report).splitlines() if line.startswith("box")]
    assert lines == [
        "box1, ocr: 4.00 h, 3.0000 CNY + unknown, 0 images",
        "box2, ocr: 1.00 h, unknown, 0 images",
        "box3, ocr: 1.00 h, unknown, 0 images",
    ]
    assert "box1（ocr）：4.00 小时，¥3.0000 + 未知，0 张图片" in text(report, "zh")
    assert to_json(report)["hosts"][1] == {
        "deployment": "ocr",
        "provider": "ssh",
        "host": "box2",
        "gpu": "T4",
        "hours": 1.0,
        "unknown_hours": 1.0,
        "cost_micros": None,
        "images": 0,
    }


def test_one_machine_alone_is_its_row(rows: Rows) -> None:
    ran(rows, "this", 1, 1_000_000, provider="local")
    assert "this machine" not in text(october(rows))


def test_the_charges_are_found_from_the_few_machines(rows: Rows) -> None:
    """A month of a million charges of rented machines is not read through for the few of one's own."""
    asked = owned.BOOKED.params(start=START, end=START + HOUR)
    with rows.ledger.read() as tx:
        told = tx.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked.compile(tx, compile_kwargs={'literal_binds': True})}")
        steps = [row[-1] for row in told]
    assert steps[0].startswith("SCAN instances") and "charges USING INDEX ix_charges_instance_id" in steps[1], steps
