"""Whatever happened: the total is the sum of its rows and of its days, and the savings add up, to the micro-unit."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from focus_data_toolkit.model import validator
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import prices
from orchestrator.ledger import tables as t
from orchestrator.reports import focus
from orchestrator.reports.frame import Frame
from orchestrator.reports.month import MonthReport, month
from orchestrator.reports.savings import Baseline
from orchestrator.reports.terms import Terms
from policies.snapshot import Purchase
from policies.windows import Schedule, Window, spans
from tests.orchestrator.report_ledger import Rows, rows_in

ZONES = ("UTC", "Asia/Shanghai", "America/New_York", "Europe/London", "Australia/Lord_Howe", "Africa/Cairo")
ZONES += ("America/Havana", "America/St_Johns", "Pacific/Apia", "Asia/Kathmandu")
MONTHS = ((2011, 12), (2026, 3), (2026, 10), (2026, 11), (2027, 4), (2028, 2))
RATES: dict[str, Fraction | int] = {"CNY": 1, "USD": Fraction("7.10")}
MODEL = "cv_resnet18_ocr-detection"


@dataclass(frozen=True)
class Stretch:
    """One charge to be: `start` in seconds from a few days before the month, `length` None while it is still open."""

    machine: int
    start: int
    length: int | None
    price: int | None
    currency: str
    amount: int | None
    kind: str
    images: int


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rows]:
    home: Path = tmp_path_factory.mktemp("ledger")
    opened = rows_in(home)
    prices.seed(opened.ledger)
    yield opened
    opened.ledger.close()


stretches = st.builds(
    Stretch,
    machine=st.integers(0, 3),
    start=st.integers(-30 * 86_400, 40 * 86_400),
    length=st.none() | st.integers(0, 45 * 86_400),
    price=st.none() | st.integers(0, 20_000_000),
    currency=st.sampled_from(["CNY", "CNY", "USD", "EUR"]),
    amount=st.none() | st.none() | st.integers(-5_000_000, 5_000_000),
    kind=st.sampled_from(["compute", "compute", "disk"]),
    images=st.integers(0, 100_000),
)
MACHINES = (("a", "RTX 3060", "on_demand"), ("a", "RTX 3060", "spot"), ("b", "T4", "spot"), ("b", "CPU", "owned"))


def write(rows: Rows, history: list[Stretch], origin: datetime) -> list[tuple[Stretch, datetime, datetime | None]]:
    with rows.ledger.write() as tx:
        for table in (t.charges, t.loads, t.instances, t.intents, t.ticks, t.deployments):
            tx.execute(sa.delete(table))
    ids = [rows.machine(*kind) for kind in MACHINES]
    written = []
    for number, one in enumerate(history):
        start = origin + timedelta(seconds=one.start, microseconds=number)
        end = None if one.length is None else start + timedelta(seconds=one.length)
        if one.amount is not None:
            end = start
        rows.charge(ids[one.machine], start, end, one.price, one.currency, kind=one.kind, amount=one.amount)
        rows.images(ids[one.machine], start, one.images)
        written.append((one, start, end))
    return written


class Meter:
    """A month's bill by the sentence and not by the code: each charge is rounded down once, in the report's currency,
    as much as had been due by each moment. What is due between two moments is the difference."""

    def __init__(self, written: list[tuple[Stretch, datetime, datetime | None]]) -> None:
        self._written = written

    def due(self, start: datetime, end: datetime) -> int:
        return sum(self._by(one, begun, ended, end) - self._by(one, begun, ended, start) for one, begun, ended in self)

    def __iter__(self) -> Iterator[tuple[Stretch, datetime, datetime | None]]:
        return iter(self._written)

    @staticmethod
    def _by(one: Stretch, begun: datetime, ended: datetime | None, at: datetime) -> int:
        rate = RATES.get(one.currency)
        if rate is None or at <= begun:
            return 0
        if one.amount is not None:
            return floor(one.amount * rate)
        if one.price is None:
            return 0
        ran = (at if ended is None or at < ended else ended) - begun
        return floor(one.price * rate * Fraction(ran // timedelta(microseconds=1), 3_600_000_000))


def local_midnight(zone: ZoneInfo, day: date) -> datetime:
    """The first moment of a local date, by walking through the minutes around it."""
    at = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=30)
    while at.astimezone(zone).date() < day:
        at += timedelta(minutes=1)
    return at


HISTORIES = {
    "history": st.lists(stretches, max_size=12),
    "zone": st.sampled_from(ZONES),
    "year_month": st.sampled_from(MONTHS),
    "now_seconds": st.integers(0, 50 * 86_400),
    "replicas": st.integers(1, 3),
    "always_on": st.booleans(),
}


@settings(max_examples=40, deadline=None)
@given(**HISTORIES)
def test_everything_adds_up(rows: Rows, **drawn: Any) -> None:
    adds_up(rows, **drawn)


@pytest.mark.soak
@settings(max_examples=10_000, deadline=None)
@given(**HISTORIES)
def test_everything_adds_up_ten_thousand_times(rows: Rows, **drawn: Any) -> None:
    adds_up(rows, **drawn)


def adds_up(
    rows: Rows,
    history: list[Stretch],
    zone: str,
    year_month: tuple[int, int],
    now_seconds: int,
    replicas: int,
    always_on: bool,
) -> None:
    year, number = year_month
    local = ZoneInfo(zone)
    first = date(year, number, 1)
    following = (first + timedelta(days=31)).replace(day=1)
    origin = datetime(year, number, 1, tzinfo=UTC) - timedelta(days=5)
    now = origin + timedelta(seconds=now_seconds)
    history = [one for one in history if origin + timedelta(seconds=one.start) < now]
    written = write(rows, history, origin)
    opening = spans(
        Schedule(zone=local, windows=(Window(days=frozenset(range(5)), start_minute=480, end_minute=1200),)),
        first - timedelta(days=1),
        following,
    )
    baseline = Baseline(gpu="RTX 3090", purchase=Purchase.ON_DEMAND, replicas=replicas, always_on=always_on)
    terms = tuple(
        Terms(
            name=name,
            model=MODEL,
            currency="CNY",
            rates={"USD": Fraction("7.10")},
            opening=opening,
            baseline=baseline,
            since=origin,
        )
        for name in ("a", "b")
    )
    asked = Frame(month=f"{year}-{number:02}", zone=local, currency="CNY", terms=terms)
    report = month(rows.ledger, asked.month, now=now, zone=local, currency="CNY", terms=terms)

    start = local_midnight(local, first)
    end = max(start, min(local_midnight(local, following), now))
    meter = Meter(written)
    total = sum(row.cost_micros or 0 for row in report.rows)
    assert total == sum(day.cost_micros for day in report.days) == (report.total_micros or 0)
    assert total == meter.due(start, end) == sum(micros for _, micros in report.kinds)
    for day in report.days:
        midnight, next_midnight = local_midnight(local, day.date), local_midnight(local, day.date + timedelta(days=1))
        assert day.cost_micros == meter.due(max(midnight, start), min(next_midnight, end))
    for row in report.rows:
        assert row.list_micros is None or row.discount_micros == row.list_micros - (row.cost_micros or 0)
        assert 0 <= row.boot_hours <= row.hours
    if (before := report.last_month) is not None:
        assert before.micros <= total or any(one.amount is not None for one, *_ in written)
        earlier = local_midnight(local, first - timedelta(days=1)).astimezone(local).date().replace(day=1)
        assert before.whole_micros == meter.due(local_midnight(local, earlier), start)
    images = sum(one.images for one, begun, _ in written if start <= begun < end)
    assert sum(row.images for row in report.rows) == images
    savings_add_up(report)
    exported_alike(rows, report, asked, now)


def exported_alike(rows: Rows, report: MonthReport, asked: Frame, now: datetime) -> None:
    """The FOCUS rows of the same month come to the same."""
    if not report.rows:
        return
    found = focus.framed(rows.ledger, asked, now)
    billed = sum(int(Decimal(one["BilledCost"]).scaleb(6)) for one in found.lines if one["BillingCurrency"] == "CNY")
    assert billed == (report.total_micros or 0)
    if found.lines:
        conditions = ("SupportsUnitPricing", "SupportsMultiplePricingCategories")
        judged = validator.lint_focus_1_4_structure(
            "cost and usage", list(found.lines), supported_conditions=conditions
        )
        assert judged.messages() == []


def savings_add_up(report: MonthReport) -> None:
    if saved := report.savings:
        parts = saved.window_micros + saved.scaling_micros + saved.gpu_micros + saved.spot_micros
        assert saved.baseline_micros - saved.actual_micros == parts
        assert saved.actual_micros == report.total_micros
