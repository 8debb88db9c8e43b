"""A month's bill against ledgers whose right answer is known by hand."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from click.testing import Result
from typer.testing import CliRunner

from orchestrator import prices
from orchestrator.cli import app
from orchestrator.errors import Refused
from orchestrator.ledger import offers
from orchestrator.ledger import tables as t
from orchestrator.ledger.store import open_file
from orchestrator.reports.formats import csv_text, to_json
from orchestrator.reports.month import MonthReport, month, of_ledger
from orchestrator.reports.savings import Baseline
from orchestrator.reports.terminal import text
from orchestrator.reports.terms import Terms
from orchestrator.reports.words import Said
from policies.snapshot import Offer, Profile, Purchase
from policies.windows import Span
from tests.orchestrator.report_ledger import Rows, rows_in, utc

HOUR = timedelta(hours=1)
UTC_ZONE = ZoneInfo("UTC")
SHANGHAI = ZoneInfo("Asia/Shanghai")
AFTER = utc("2027-01-01")
PRICE = 1_800_000


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    opened = rows_in(tmp_path)
    yield opened
    opened.ledger.close()


def october(rows: Rows, now: datetime = AFTER, zone: ZoneInfo = UTC_ZONE, terms: tuple[Terms, ...] = ()) -> MonthReport:
    return month(rows.ledger, "2026-10", now=now, zone=zone, currency="CNY", terms=terms)


def adds_up(report: MonthReport) -> None:
    known = [row.cost_micros for row in report.rows if row.cost_micros is not None]
    assert sum(known) == sum(day.cost_micros for day in report.days) == (report.total_micros or 0)
    if saved := report.savings:
        parts = saved.window_micros + saved.scaling_micros + saved.gpu_micros + saved.spot_micros
        assert saved.baseline_micros - parts == saved.actual_micros


@pytest.mark.parametrize(
    ("start", "end", "hours"),
    [
        pytest.param("2026-10-05 08:00", "2026-10-05 20:00", 12, id="within the month"),
        pytest.param("2026-09-30 12:00", "2026-10-01 12:00", 12, id="across its start"),
        pytest.param("2026-10-31 12:00", "2026-11-01 12:00", 12, id="across its end"),
        pytest.param("2026-08-15", "2026-11-13", 744, id="up for 90 days around it"),
        pytest.param("2026-09-01", "2026-10-01", None, id="gone before"),
        pytest.param("2026-11-01", "2026-11-02", None, id="came after"),
        pytest.param("2026-08-15", None, 744, id="still up"),
    ],
)
def test_a_machine_is_clipped_to_the_month(rows: Rows, start: str, end: str | None, hours: int | None) -> None:
    rows.charge(rows.machine(), utc(start), utc(end) if end else None, PRICE)
    report = october(rows)
    assert [row.hours for row in report.rows] == ([] if hours is None else [hours])
    assert report.total_micros == (hours or 0) * PRICE
    adds_up(report)


def test_an_open_charge_counts_up_to_now(rows: Rows) -> None:
    rows.charge(rows.machine(), utc("2026-10-10"), None, PRICE)
    report = october(rows, now=utc("2026-10-10 06:00"))
    assert (report.total_micros, report.over) == (6 * PRICE, False)
    assert [day.date.day for day in report.days] == list(range(1, 11))
    adds_up(report)


@pytest.mark.parametrize(
    ("zone", "month_text", "hours"),
    [
        ("UTC", "2026-10", 744),
        ("Asia/Shanghai", "2026-10", 744),
        ("America/New_York", "2026-03", 743),
        ("America/New_York", "2026-11", 721),
        ("Australia/Lord_Howe", "2026-10", 743.5),
        ("UTC", "2028-02", 696),
        ("Pacific/Apia", "2011-12", 720),
    ],
)
def test_a_month_is_as_long_as_its_zone_makes_it(rows: Rows, zone: str, month_text: str, hours: float) -> None:
    rows.charge(rows.machine(), utc("2010-01-01"), None, PRICE)
    report = month(rows.ledger, month_text, now=utc("2030-01-01"), zone=ZoneInfo(zone), currency="CNY")
    assert report.rows[0].hours == hours
    assert report.total_micros == hours * PRICE
    adds_up(report)
    skipped = zone == "Pacific/Apia"  # 30 December 2011 did not exist there
    assert ("2011-12-30" in [day.date.isoformat() for day in report.days]) is False
    assert len(report.days) == (30 if skipped else round(hours / 24))


def test_a_day_is_the_local_one(rows: Rows) -> None:
    rows.charge(rows.machine(), utc("2026-10-01 15:00"), utc("2026-10-01 18:00"), PRICE)
    report = october(rows, zone=SHANGHAI)  # midnight is 16:00 UTC
    assert [day.cost_micros for day in report.days[:3]] == [PRICE, 2 * PRICE, 0]


def test_the_total_covers_every_row(rows: Rows) -> None:
    for number in range(60):
        machine = rows.machine(f"d{number}", gpu=f"g{number}")
        rows.charge(machine, utc("2026-10-01"), utc("2026-10-01 01:00"), PRICE + number)
    report = october(rows)
    assert report.total_micros == 60 * PRICE + sum(range(60))
    assert f"{report.total_micros / 1e6:.2f}" in text(report)
    adds_up(report)


def test_todays_price_never_changes_the_past(rows: Rows) -> None:
    offer = on_demand("RTX 3060", PRICE)
    with rows.ledger.write() as tx:
        offers.record(tx, [offer], "test", utc("2026-09-01"))
    machine = rows.machine()
    rows.charge(machine, utc("2026-10-10"), utc("2026-10-20"), PRICE)
    baseline = Baseline(gpu="RTX 3060", purchase=Purchase.ON_DEMAND, replicas=1, always_on=True)
    terms = (Terms(name="ocr", currency="CNY", baseline=baseline, opening=(), since=utc("2026-10-01")),)
    before = to_json(october(rows, terms=terms))
    with rows.ledger.write() as tx:
        offers.record(tx, [on_demand("RTX 3060", 9 * PRICE)], "test", AFTER)
    rows.charge(machine, AFTER, None, 9 * PRICE)
    assert to_json(october(rows, now=AFTER + HOUR, terms=terms)) == before
    assert before["savings"]["baseline_micros"] == 744 * PRICE


def test_a_price_that_moved_within_the_month(rows: Rows) -> None:
    machine = rows.machine()
    rows.charge(machine, utc("2026-10-01"), utc("2026-10-02"), PRICE)
    rows.charge(machine, utc("2026-10-02"), utc("2026-10-03"), 2 * PRICE)
    report = october(rows)
    assert (report.rows[0].hours, report.total_micros) == (48, 72 * PRICE)


def test_a_removed_type_keeps_its_cost(rows: Rows) -> None:
    """No offer and no deployment speaks of it any more; the charges do."""
    rows.charge(rows.machine("gone", gpu="K80"), utc("2026-10-01"), utc("2026-10-02"), PRICE)
    report = of_ledger(rows.ledger, "2026-10", AFTER)
    assert (report.currency, report.total_micros) == ("CNY", 24 * PRICE)


def test_an_unknown_price_is_unknown(rows: Rows) -> None:
    rows.charge(rows.machine(gpu="CPU", purchase="owned"), utc("2026-10-01"), utc("2026-10-01 02:30"), None)
    report = october(rows)
    assert report.total_micros is None and report.rows[0].cost_micros is None
    assert report.unknown_hours == Fraction(5, 2)
    assert "unknown" in text(report) and "+ unknown: 2.50 hours" in text(report)
    rows.charge(rows.machine(), utc("2026-10-01"), utc("2026-10-02"), PRICE)
    report = october(rows)
    assert report.total_micros == 24 * PRICE
    assert "43.20 + unknown" in text(report)
    adds_up(report)


def test_a_machine_with_a_price_for_part_of_its_time(rows: Rows) -> None:
    machine = rows.machine()
    rows.charge(machine, utc("2026-10-01"), utc("2026-10-01 01:00"), None)
    rows.charge(machine, utc("2026-10-01 01:00"), utc("2026-10-01 02:00"), PRICE)
    rows.images(machine, utc("2026-10-01 01:30"), 1000)
    (row,) = october(rows).rows
    assert (row.hours, row.unknown_hours, row.cost_micros) == (2, 1, PRICE)
    assert row.cost_per_1000_micros is None, "not all of its cost is known"


def test_cost_per_1000_images(rows: Rows) -> None:
    machine = rows.machine()
    rows.charge(machine, utc("2026-10-01"), utc("2026-10-01 01:00"), PRICE)
    for minute in range(3):
        rows.images(machine, utc("2026-10-01") + timedelta(minutes=minute), 3000)
    rows.images(machine, utc("2026-09-30 23:59"), 5)
    rows.images(machine, utc("2026-11-01"), 7)
    idle = rows.machine(gpu="T4")
    rows.charge(idle, utc("2026-10-01"), utc("2026-10-01 01:00"), PRICE)
    by_gpu = {row.gpu: row for row in october(rows).rows}
    assert (by_gpu["RTX 3060"].images, by_gpu["RTX 3060"].cost_per_1000_micros) == (9000, 200_000)
    assert (by_gpu["T4"].images, by_gpu["T4"].cost_per_1000_micros) == (0, None)


def test_currencies_are_never_added_up_without_a_rate(rows: Rows) -> None:
    rows.charge(rows.machine(), utc("2026-10-01"), utc("2026-10-02"), PRICE)
    rows.charge(rows.machine(gpu="T4"), utc("2026-10-01"), utc("2026-10-02"), 500_000, "USD")
    without = october(rows)
    assert without.total_micros == 24 * PRICE
    assert without.unconverted == (("USD", 12_000_000),)
    assert next(row for row in without.rows if row.gpu == "T4").cost_micros is None
    assert "12.00 USD, not added: no rate from USD to CNY" in text(without)
    assert ",USD,12.000000," in csv_text(without)
    said = Said("converted at 1 USD = 7.10 CNY (2026-10-01, my bank)")
    rated = Terms(name="ocr", currency="CNY", rates={"USD": Fraction("7.10")}, rates_said=(said,))
    report = october(rows, terms=(rated,))
    assert report.total_micros == 24 * PRICE + 85_200_000
    assert report.unconverted == () and said in report.notes
    adds_up(report)


def test_a_correction_is_booked_when_it_is_made(rows: Rows) -> None:
    machine = rows.machine(purchase="spot")
    rows.charge(machine, utc("2026-09-30 23:30"), utc("2026-10-01"), PRICE)
    rows.charge(machine, utc("2026-10-02 09:00"), utc("2026-10-02 09:00"), None, amount=-PRICE // 2)
    report = october(rows)
    assert (report.total_micros, report.rows[0].hours) == (-PRICE // 2, 0)
    assert report.days[1].cost_micros == -PRICE // 2
    adds_up(report)


def test_what_is_no_machine_time_costs_but_takes_no_hours(rows: Rows) -> None:
    machine = rows.machine()
    rows.charge(machine, utc("2026-10-01"), utc("2026-10-01 10:00"), PRICE)
    rows.charge(machine, utc("2026-10-01"), utc("2026-10-02"), 10_000, kind="disk")
    report = october(rows)
    assert (report.rows[0].hours, report.total_micros) == (10, 10 * PRICE + 240_000)
    adds_up(report)


def test_an_empty_month_says_so(rows: Rows) -> None:
    report = october(rows)
    assert (report.total_micros, report.rows, report.days, report.forecast_micros) == (0, (), (), None)
    assert "no data: nothing ran in 2026-10" in text(report)


@pytest.mark.parametrize(
    "wrong", ["2026-13", "2026-1", "october", "2026-10-01", "0001-01", "2200-01", "9999-12", "9999-12x"]
)
def test_a_month_that_is_none(rows: Rows, wrong: str) -> None:
    with pytest.raises(Refused, match="want YYYY-MM"):
        of_ledger(rows.ledger, wrong, AFTER)


# --- savings ---------------------------------------------------------------------------------------------------------

MODEL = "cv_resnet18_ocr-detection"
DAYTIME = tuple(
    Span(opens_at=utc("2026-10-01 08:00") + day * 24 * HOUR, closes_at=utc("2026-10-01 20:00") + day * 24 * HOUR)
    for day in range(31)
)


def against(replicas: int = 1, gpu: str = "RTX 3090", *, always_on: bool = True, **more: object) -> Terms:
    baseline = Baseline(gpu=gpu, purchase=Purchase.ON_DEMAND, replicas=replicas, always_on=always_on)
    words = {"name": "ocr", "model": MODEL, "currency": "CNY", "opening": DAYTIME, "since": utc("2026-09-01")}
    return Terms(**{**words, "baseline": baseline, **more})  # type: ignore[arg-type]


def split(report: MonthReport) -> dict[str, int]:
    adds_up(report)
    assert report.savings is not None, report.notes
    saved = report.savings
    return {
        "baseline": saved.baseline_micros, "window": saved.window_micros, "scaling": saved.scaling_micros,
        "gpu": saved.gpu_micros, "spot": saved.spot_micros, "actual": saved.actual_micros,
    }  # fmt: skip


@pytest.fixture
def daytime(rows: Rows) -> Rows:
    """One RTX 3060 from 08:00 to 20:00 on every day of October, 1.80 an hour, little to do; the published prices."""
    prices.seed(rows.ledger, AFTER)
    for span in DAYTIME:
        machine = rows.machine()
        rows.charge(machine, span.opens_at, span.closes_at, PRICE)
        rows.images(machine, span.opens_at, 100)
    return rows


def test_the_waterfall_of_a_daytime_service(daytime: Rows) -> None:
    report = october(daytime, terms=(against(),))
    assert split(report) == {
        "baseline": 744 * 4_200_000,
        "window": 372 * 4_200_000,
        "scaling": 0,
        "gpu": 372 * 2_400_000,
        "spot": 0,
        "actual": 372 * 1_800_000,
    }
    assert report.savings and report.savings.basis == "same hours"


def test_scaling_is_what_replicas_did_not_run(daytime: Rows) -> None:
    found = split(october(daytime, terms=(against(replicas=3),)))
    assert found["baseline"] == 3 * 744 * 4_200_000
    assert found["scaling"] == 2 * 372 * 4_200_000


def test_a_baseline_that_closes_saves_nothing_by_windows(daytime: Rows) -> None:
    found = split(october(daytime, terms=(against(always_on=False),)))
    assert (found["baseline"], found["window"]) == (372 * 4_200_000, 0)


def test_spot_is_measured_against_the_same_gpus_on_demand_price(rows: Rows) -> None:
    prices.seed(rows.ledger, AFTER)
    machine = rows.machine(purchase="spot")
    rows.charge(machine, utc("2026-10-01 08:00"), utc("2026-10-01 18:00"), 600_000)
    rows.charge(machine, utc("2026-10-02"), utc("2026-10-02"), None, amount=-100_000)  # its last hour was free
    found = split(october(rows, terms=(against(),)))
    assert found["gpu"] == 10 * (4_200_000 - 1_800_000)
    assert found["spot"] == 10 * (1_800_000 - 600_000) + 100_000
    assert found["actual"] == 5_900_000


def test_a_busy_fleet_is_measured_by_its_images(rows: Rows) -> None:
    """10 hours of an RTX 3060 at full speed are 90,000 images, which an RTX 3090 reads in 5 hours."""
    prices.seed(rows.ledger, AFTER)
    machine = rows.machine()
    rows.charge(machine, utc("2026-10-01 08:00"), utc("2026-10-01 18:00"), PRICE)
    rows.images(machine, utc("2026-10-01 08:00"), 90_000)
    report = october(rows, terms=(against(),))
    found = split(report)
    assert found["gpu"] == 5 * 4_200_000 - 10 * 1_800_000
    assert found["scaling"] == (372 - 5) * 4_200_000
    assert report.savings and report.savings.basis == "same images"
    assert any("same images" in note for note in report.notes)


@pytest.mark.parametrize(
    ("images", "basis"), [(44_999, "same hours"), (45_000, "same images"), (90_000, "same images")]
)
def test_half_busy_is_busy(rows: Rows, images: int, basis: str) -> None:
    prices.seed(rows.ledger, AFTER)
    machine = rows.machine()
    rows.charge(machine, utc("2026-10-01 08:00"), utc("2026-10-01 18:00"), PRICE)
    rows.images(machine, utc("2026-10-01 08:00"), images)
    report = october(rows, terms=(against(),))
    assert report.savings and report.savings.basis == basis


def test_an_unmeasured_gpu_is_measured_by_its_hours(rows: Rows) -> None:
    prices.seed(rows.ledger, AFTER)
    machine = rows.machine(gpu="T4")
    rows.charge(machine, utc("2026-10-01 08:00"), utc("2026-10-01 18:00"), PRICE)
    rows.images(machine, utc("2026-10-01 08:00"), 90_000)
    report = october(rows, terms=(against(),))
    assert report.savings and report.savings.basis == "same hours"


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (against(gpu="B200"), "no price is known for the baseline B200"),
        (against(gpu="i7-10700K"), "no price is known for the baseline i7-10700K"),
        (against(baseline=None), "no baseline in its spec"),
    ],
)
def test_savings_that_cannot_be_known(daytime: Rows, terms: Terms, words: str) -> None:
    report = october(daytime, terms=(terms,))
    assert report.savings is None
    assert any(words in note for note in report.notes)
    assert set(to_json(report)["savings"].values()) == {None}


def test_a_price_paid_that_is_unknown_leaves_the_savings_unknown(daytime: Rows) -> None:
    daytime.charge(daytime.machine(purchase="owned"), utc("2026-10-01"), utc("2026-10-02"), None)
    assert october(daytime, terms=(against(),)).savings is None


def test_the_specs_own_baseline_price_wins(daytime: Rows) -> None:
    own = Baseline(
        gpu="H100", purchase=Purchase.ON_DEMAND, replicas=1, always_on=True, price_per_hour_micros=1_000_000,
        currency="USD",
    )  # fmt: skip
    found = split(october(daytime, terms=(against(baseline=own, rates={"USD": Fraction(7)}),)))
    assert found["baseline"] == 744 * 7_000_000


def test_nothing_is_saved_before_it_was_put_up_or_after_it_was_taken_down(rows: Rows) -> None:
    prices.seed(rows.ledger, AFTER)
    rows.charge(rows.machine(), utc("2026-10-10 08:00"), utc("2026-10-10 20:00"), PRICE)
    lived = against(since=utc("2026-10-10"), until=utc("2026-10-11"))
    assert split(october(rows, terms=(lived,)))["baseline"] == 24 * 4_200_000


def test_a_baseline_price_that_moved_within_the_month(daytime: Rows) -> None:
    dearer = replace(on_demand("RTX 3090", 8_400_000), id=f"{offers.MARKET}/RTX 3090", provider=offers.MARKET)
    with daytime.ledger.write() as tx:
        offers.record(tx, [dearer], "test", utc("2026-10-31"))
    assert split(october(daytime, terms=(against(),)))["baseline"] == (720 + 2 * 24) * 4_200_000


def test_a_price_first_known_after_the_month_says_nothing_about_it(daytime: Rows) -> None:
    with daytime.ledger.write() as tx:
        offers.record(tx, [on_demand("B200", 9_000_000)], "test", utc("2026-11-01"))
    assert october(daytime, terms=(against(gpu="B200"),)).savings is None


def test_spots_own_provider_is_asked_first_for_its_on_demand_price(rows: Rows) -> None:
    prices.seed(rows.ledger, AFTER)
    with rows.ledger.write() as tx:
        offers.record(tx, [on_demand("RTX 3060", 3_000_000)], "test", utc("2026-09-01"))
    rows.charge(rows.machine(purchase="spot"), utc("2026-10-01 08:00"), utc("2026-10-01 18:00"), 600_000)
    assert split(october(rows, terms=(against(),)))["spot"] == 10 * (3_000_000 - 600_000)


def on_demand(gpu: str, price: int) -> Offer:
    return Offer(
        id=f"simulated/{gpu}", provider="simulated", zone="", instance_type="", gpu=gpu, purchase=Purchase.ON_DEMAND,
        price_per_hour_micros=price, currency="CNY",
    )  # fmt: skip


def test_own_measurements_decide_how_fast_the_baseline_is(rows: Rows) -> None:
    prices.seed(rows.ledger, AFTER)
    own = Profile(
        model=MODEL, gpu="RTX 3090", precision="fp16", batch=1, images_per_second=10.0, p95_ms=100.0, source="bench"
    )
    with rows.ledger.write() as tx:
        offers.add_profile(tx, own, AFTER)
    machine = rows.machine()
    rows.charge(machine, utc("2026-10-01 08:00"), utc("2026-10-01 18:00"), PRICE)
    rows.images(machine, utc("2026-10-01 08:00"), 90_000)
    assert split(october(rows, terms=(against(),)))["gpu"] == Fraction(5, 2) * 4_200_000 - 10 * 1_800_000


# --- gaps and forecast -----------------------------------------------------------------------------------------------


def test_minutes_without_evidence(rows: Rows) -> None:
    rows.machine(ready=(utc("2026-10-01 08:00"), utc("2026-10-01 09:00")))  # its launch is a tick at 08:00
    rows.ticks("ocr", utc("2026-10-01 08:01"), utc("2026-10-01 08:30"), timedelta(seconds=30))
    assert october(rows).gaps_minutes == 30
    machine = rows.machine(ready=(utc("2026-10-01 08:10"), utc("2026-10-01 09:10:30")))
    rows.images(machine, utc("2026-10-01 08:45"), 1)
    assert october(rows).gaps_minutes == 30 - 1 + 10


def test_a_replica_that_is_still_ready_is_watched_until_now(rows: Rows) -> None:
    rows.machine(ready=(utc("2026-10-01 08:00"), None))
    assert october(rows, now=utc("2026-10-01 08:10")).gaps_minutes == 9


def test_the_forecast_follows_the_open_hours(rows: Rows) -> None:
    for span in DAYTIME[:10]:
        rows.charge(rows.machine(), span.opens_at, span.closes_at, PRICE)
    now = utc("2026-10-11")
    assert october(rows, now=now, terms=(against(),)).forecast_micros == 31 * 12 * PRICE
    down = against(until=utc("2026-10-10 21:00"))
    assert october(rows, now=now, terms=(down,)).forecast_micros == 120 * PRICE
    assert october(rows, now=AFTER, terms=(against(),)).forecast_micros == 120 * PRICE


# --- what people and machines read -----------------------------------------------------------------------------------

SPEC = """
name: ocr
model: cv_resnet18_ocr-detection
provider: simulated
currency: CNY
schedule: {timezone: Asia/Shanghai, windows: ["Mon-Sun 08:00-20:00"]}
baseline: {gpu: RTX 3090, purchase: on_demand, replicas: 1, always_on: true}
"""


def halve(home: Path, *words: str) -> Result:
    env = {"HALVE_HOME": str(home), "COLUMNS": "80", "HALVE_DATABASE_URL": None}
    return CliRunner().invoke(app, ["report", *words], env=env)


@pytest.fixture
def home(tmp_path: Path, rows: Rows) -> Path:
    """Two days of the daytime service in Shanghai, one of them on spot."""
    rows.deployment("ocr", SPEC, at=utc("2026-09-30 16:00"), down_at=utc("2026-10-02 16:00"))
    for day, (purchase, price) in enumerate([("on_demand", PRICE), ("spot", 800_000)]):
        machine = rows.machine(purchase=purchase)
        start = utc("2026-10-01") + day * 24 * HOUR
        rows.charge(machine, start, start + 12 * HOUR, price)
        rows.images(machine, start, 4000)
    return tmp_path


def test_json_keeps_the_contract(home: Path) -> None:
    found = halve(home, "--month", "2026-10", "--json")
    assert found.exit_code == 0, found.output
    report = json.loads(found.stdout)
    assert (report["month"], report["zone"], report["currency"]) == ("2026-10", "Asia/Shanghai", "CNY")
    assert report["total_micros"] == 12 * (PRICE + 800_000)
    keys = ("deployment", "gpu", "purchase", "hours", "cost_micros", "images", "cost_per_1000_micros")
    assert [tuple(row[key] for key in keys) for row in report["rows"]] == [
        ("ocr", "RTX 3060", "on_demand", 12, 12 * PRICE, 4000, 12 * PRICE // 4),
        ("ocr", "RTX 3060", "spot", 12, 9_600_000, 4000, 2_400_000),
    ]
    assert report["days"][:3] == [
        {"date": "2026-10-01", "cost_micros": 12 * PRICE},
        {"date": "2026-10-02", "cost_micros": 9_600_000},
        {"date": "2026-10-03", "cost_micros": 0},
    ]
    parts = ("baseline_micros", "window_micros", "scaling_micros", "gpu_micros", "spot_micros")
    assert [report["savings"][part] for part in parts] == [201_600_000, 100_800_000, 0, 57_600_000, 12_000_000]
    assert report["gaps_minutes"] == 0 and report["forecast_micros"] == report["total_micros"]
    assert report["simulated"] is False


def test_the_page_at_80_columns(home: Path) -> None:
    found = halve(home, "--month", "2026-10")
    assert found.exit_code == 0, found.output
    lines = [line.rstrip() for line in found.stdout.splitlines()]
    assert max(map(len, lines)) <= 80
    assert lines == [
        "2026-10 · Asia/Shanghai · CNY · an estimate, not an invoice",
        "",
        "deployment  GPU       terms      hours  busy  per hour   cost  images  per 1,000",
        "────────────────────────────────────────────────────────────────────────────────",
        "ocr         RTX 3060  on-demand  12.00    4%    1.8000  21.60   4,000     5.4000",
        "ocr         RTX 3060  spot       12.00    4%    0.8000   9.60   4,000     2.4000",
        "",
        "total                            24.00                  31.20   8,000",
        "",
        "By day: █▄▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁",
        "",
        "Saved against 1 x RTX 3090 on-demand, always on:",
        "  baseline           201.60",
        "  closed hours      -100.80  -50%",
        "  scaling              0.00",
        "  GPU (same hours)   -57.60  -29%",
        "  spot               -12.00   -6%",
        "  paid                31.20",
        "  saved              170.40   85%",
    ]


def test_csv_and_output(home: Path) -> None:
    target = home / "october.csv"
    assert halve(home, "--month", "2026-10", "--csv", "--output", str(target)).exit_code == 0
    assert target.read_text().splitlines() == [
        "month,deployment,gpu,purchase,hours,unknown_hours,currency,cost,images,per_1000,"
        "boot_hours,busy_share,per_hour,list_cost",
        "2026-10,ocr,RTX 3060,on_demand,12.0,0.0,CNY,21.600000,4000,5.400000,0.0,0.037037,1.800000,21.600000",
        "2026-10,ocr,RTX 3060,spot,12.0,0.0,CNY,9.600000,4000,2.400000,0.0,0.037037,0.800000,21.600000",
    ]
    refused = halve(home, "--csv", "--output", str(home / "no" / "where.csv")).exception
    assert isinstance(refused, Refused) and "where.csv" in str(refused)


def test_wrong_usage_and_missing_ledgers(home: Path) -> None:
    assert halve(home, "--month", "2026-13").exit_code == 2
    assert halve(home, "--json", "--csv").exit_code == 2
    refused = halve(home, "--ledger", str(home / "none.db")).exception
    assert isinstance(refused, Refused) and "none.db" in str(refused)


def test_no_data_is_no_error(tmp_path: Path) -> None:
    found = halve(tmp_path, "--month", "2020-01")
    assert found.exit_code == 0 and "no data" in found.stdout
    assert halve(tmp_path).exit_code == 0


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_on_the_first_day_every_report_says_that_nothing_ran(tmp_path: Path, lang: str) -> None:
    said = {"en": "no data: nothing ran in 2020-01", "zh": "没有数据：2020-01 没有机器运行"}[lang]
    asked = ("--month", "2020-01", "--lang", lang)
    page = halve(tmp_path, *asked).stdout
    assert said in page and "\n\n\n" not in page and "0.00" not in page
    assert said in halve(tmp_path, *asked, "--html").stdout
    listed = halve(tmp_path, *asked, "--csv")
    assert len(listed.stdout.splitlines()) == 1 and listed.stderr.strip() == said, "a table has no room for words"
    found = json.loads(halve(tmp_path, *asked, "--json").stdout)
    assert found["rows"] == [] and found["notes"] == ["no data: nothing ran in 2020-01"]
    export = halve(tmp_path, *asked, "--focus", "1.4")
    assert export.stderr == "no data: nothing was charged in that month\n"


def test_a_simulated_ledger_is_marked(tmp_path: Path) -> None:
    path = tmp_path / "simulated.db"
    ledger = open_file(path, simulated=True, create=True)
    rows = Rows(ledger)
    rows.charge(rows.machine(), utc("2026-10-01"), utc("2026-10-02"), PRICE)
    ledger.close()
    assert "SIMULATED" in halve(tmp_path, "--month", "2026-10", "--ledger", str(path)).stdout
    assert json.loads(halve(tmp_path, "--ledger", str(path), "--json").stdout)["simulated"] is True


def test_a_spec_that_can_no_longer_be_read_costs_no_report(home: Path, rows: Rows) -> None:
    with rows.ledger.write() as tx:
        tx.execute(sa.update(t.deployments).values(spec="name: [broken"))
    report = of_ledger(rows.ledger, "2026-10", AFTER)
    assert report.total_micros == 12 * (PRICE + 800_000) and report.savings is None
    assert any("ocr: its spec cannot be read" in note for note in report.notes)


def test_zones_that_differ_are_said(home: Path, rows: Rows) -> None:
    rows.deployment("zz", SPEC.replace("name: ocr", "name: zz").replace("Asia/Shanghai", "Europe/Paris"))
    report = of_ledger(rows.ledger, "2026-10", AFTER)
    assert report.zone == "Asia/Shanghai"
    assert any("Europe/Paris" in note for note in report.notes)
