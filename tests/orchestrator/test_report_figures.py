"""Comparisons, ranges, budgets, interruptions and lists of the month report; and how they are said."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from orchestrator import prices
from orchestrator.cli import app
from orchestrator.ledger import offers, quotes
from orchestrator.ledger import tables as t
from orchestrator.reports.comparison import alike
from orchestrator.reports.formats import csv_text, to_json
from orchestrator.reports.month import MonthReport, month, of_ledger
from orchestrator.reports.page import html_text
from orchestrator.reports.terminal import text
from orchestrator.reports.terms import Terms
from orchestrator.reports.words import Said, Words
from policies.budget import Brake, Budget
from policies.snapshot import Offer, Purchase
from policies.windows import Span
from tests.orchestrator.report_ledger import Rows, rows_in, utc

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
UTC_ZONE = ZoneInfo("UTC")
PRICE = 1_800_000


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    opened = rows_in(tmp_path)
    yield opened
    opened.ledger.close()


def report(rows: Rows, month_text: str, now: datetime, *terms: Terms, zone: ZoneInfo = UTC_ZONE) -> MonthReport:
    return month(rows.ledger, month_text, now=now, zone=zone, currency="CNY", terms=terms)


# --- last month and last year -----------------------------------------------------------------------------------------


def test_a_running_month_is_compared_with_the_same_days(rows: Rows) -> None:
    machine = rows.machine()
    rows.charge(machine, utc("2026-09-01"), utc("2026-10-01"), PRICE)
    rows.charge(machine, utc("2026-10-01"), None, 2 * PRICE)
    found = report(rows, "2026-10", utc("2026-10-11 12:00")).last_month
    assert found is not None
    assert (found.month, found.days) == ("2026-09", 11)
    assert found.before_micros == 252 * PRICE and found.micros == 2 * 252 * PRICE
    assert found.whole_micros == 720 * PRICE


def test_a_month_that_is_over_is_compared_over_the_shorter_one(rows: Rows) -> None:
    rows.charge(rows.machine(), utc("2025-01-01"), utc("2026-12-01"), PRICE)
    march = report(rows, "2026-03", utc("2026-12-01"))
    assert march.last_month and march.last_month.days == 28
    assert march.last_month.micros == march.last_month.before_micros == 28 * 24 * PRICE
    assert march.last_year and march.last_year.days == 31 and march.last_year.before_micros == 31 * 24 * PRICE
    february = report(rows, "2026-02", utc("2026-12-01"))
    assert february.last_month and february.last_month.days == 28
    assert february.last_month.whole_micros == 31 * 24 * PRICE


@pytest.mark.parametrize(
    ("zone", "until", "hours"),
    [("Europe/Berlin", "2026-04-20 10:00", 468 - 1), ("Asia/Shanghai", "2026-04-20 10:00", 474)],
)
def test_the_clock_on_the_wall_decides_where_to_cut(rows: Rows, zone: str, until: str, hours: int) -> None:
    """The 20th at noon in Berlin: in April it is summer there all along, March lost an hour only after the 20th."""
    same = alike(ZoneInfo(zone), 2026, 4, utc(until), 1)
    assert same is not None
    assert same.here.closes_at - same.here.opens_at == same.before.closes_at - same.before.opens_at
    at = [one.closes_at.astimezone(ZoneInfo(zone)) for one in (same.here, same.before)]
    assert (at[0].day, at[0].hour) == (at[1].day, at[1].hour) == (20, at[0].hour)


def test_the_first_month_has_nothing_to_compare_with(rows: Rows) -> None:
    rows.charge(rows.machine(), utc("2026-10-01"), utc("2026-10-02"), PRICE)
    found = report(rows, "2026-10", utc("2026-11-01"))
    assert found.last_month is None and found.last_year is None
    assert to_json(found)["last_month"] is None


# --- forecast and budgets ---------------------------------------------------------------------------------------------


def open_all_day(name: str = "ocr", **more: object) -> Terms:
    whole = Span(opens_at=utc("2026-09-01"), closes_at=utc("2026-12-01"))
    words = {"name": name, "currency": "CNY", "opening": (whole,), "since": utc("2026-09-01")}
    return Terms(**{**words, **more})  # type: ignore[arg-type]


def test_even_days_have_a_narrow_range_and_uneven_ones_a_wide_one(rows: Rows) -> None:
    rows.charge(rows.machine(), utc("2026-10-01"), None, PRICE)
    now = utc("2026-10-11")
    even = report(rows, "2026-10", now, open_all_day()).forecast
    assert even is not None and even.micros == even.low_micros == even.high_micros == 744 * PRICE
    for day in (2, 5, 6):
        start = utc("2026-10-01") + day * DAY
        rows.charge(rows.machine(), start, start + 20 * HOUR, PRICE)
    uneven = report(rows, "2026-10", now, open_all_day()).forecast
    assert uneven is not None and uneven.low_micros is not None and uneven.high_micros is not None
    assert (240 + 60) * PRICE < uneven.low_micros < uneven.micros < uneven.high_micros
    spread = PRICE * 20 * Fraction(21, 90).numerator  # the days cost 24 or 44 hours: no range is made of nothing
    assert uneven.high_micros - uneven.micros > spread / 90


def test_two_days_say_nothing_of_a_range(rows: Rows) -> None:
    rows.charge(rows.machine(), utc("2026-10-01"), None, PRICE)
    found = report(rows, "2026-10", utc("2026-10-03 12:00"), open_all_day()).forecast
    assert found is not None and found.low_micros is None and found.high_micros is None


BUDGET = Budget(monthly_micros=1_000_000_000, at=((0.8, Brake.WARN), (0.95, Brake.SPOT_ONLY), (1.0, Brake.STOP)))


@pytest.mark.parametrize(
    ("spent_hours", "reached"), [(0, None), (444, None), (445, "warn"), (528, "spot-only"), (556, "stop")]
)
def test_a_budget_says_what_it_has_set_off(rows: Rows, spent_hours: int, reached: str | None) -> None:
    rows.charge(rows.machine(), utc("2026-10-01"), utc("2026-10-01") + max(1, spent_hours) * HOUR, PRICE)
    (line,) = report(rows, "2026-10", utc("2026-11-01"), open_all_day(budget=BUDGET)).budgets
    assert (line.reached.value if line.reached else None) == reached
    assert line.spent_micros == max(1, spent_hours) * PRICE


def test_a_budget_foretells(rows: Rows) -> None:
    rows.charge(rows.machine(), utc("2026-10-01"), None, PRICE)
    found = report(rows, "2026-10", utc("2026-10-11"), open_all_day(budget=BUDGET))
    (line,) = found.budgets
    assert line.reached is None and line.ahead is Brake.STOP
    assert line.forecast_micros == 744 * PRICE
    assert "43% of ocr's 1,000.00 CNY, 134% at the month's end" in text(found, width=140)
    assert "████████░░░░░░░░░░░░" in text(found)


# --- interruptions, list prices, sources ------------------------------------------------------------------------------


def life(rows: Rows, machine: str, **moments: object) -> None:
    with rows.ledger.write() as tx:
        tx.execute(sa.update(t.instances).where(t.instances.c.id == machine).values(**moments))


def test_a_loss_costs_what_its_replacement_cost_before_it_was_ready(rows: Rows) -> None:
    gone, start = utc("2026-10-05 10:00"), utc("2026-10-05 08:00")
    lost, instead = (rows.machine(purchase="spot") for _ in range(2))
    life(rows, lost, status="preempted", requested_at=start, launched_at=start, ready_at=start, ended_at=gone)
    times = {"requested_at": gone, "launched_at": gone, "ready_at": gone + HOUR / 2}
    life(rows, instead, **times)
    rows.charge(lost, start, gone, PRICE)
    rows.charge(instead, gone, gone + 2 * HOUR, PRICE)
    (found,) = report(rows, "2026-10", utc("2026-11-01")).interruptions
    assert (found.count, found.replaced, found.boot_seconds) == (1, 1, 1800)
    assert found.recovery_micros == PRICE // 2
    (row,) = report(rows, "2026-10", utc("2026-11-01")).rows
    assert row.boot_hours == Fraction(1, 2)


def test_two_losses_at_once_are_two_replacements(rows: Rows) -> None:
    gone, start = utc("2026-10-05 10:00"), utc("2026-10-05 08:00")
    for _ in range(2):
        times = {"requested_at": start, "launched_at": start, "ready_at": start, "ended_at": gone}
        life(rows, rows.machine(purchase="spot"), status="preempted", **times)
    for minutes in (6, 12):
        instead = rows.machine(purchase="spot")
        life(rows, instead, requested_at=gone, launched_at=gone, ready_at=gone + minutes * HOUR / 60)
        rows.charge(instead, gone, gone + HOUR, PRICE)
    (found,) = report(rows, "2026-10", utc("2026-11-01")).interruptions
    assert (found.count, found.replaced, found.boot_seconds) == (2, 2, 18 * 60)
    assert found.recovery_micros == PRICE * 18 // 60


@pytest.mark.parametrize("price", [None, PRICE])
def test_a_recovery_at_a_price_that_nobody_knows_is_unknown(rows: Rows, price: int | None) -> None:
    """It is not free, nor what the replacements of known price cost."""
    gone, start = utc("2026-10-05 10:00"), utc("2026-10-05 08:00")
    for _ in range(2):
        times = {"requested_at": start, "launched_at": start, "ready_at": start, "ended_at": gone}
        life(rows, rows.machine(purchase="spot"), status="preempted", **times)
    for paid in (PRICE, price):
        instead = rows.machine(purchase="spot")
        life(rows, instead, requested_at=gone, launched_at=gone, ready_at=gone + HOUR / 2)
        rows.charge(instead, gone, gone + HOUR, paid)
    shown = report(rows, "2026-10", utc("2026-11-01"))
    assert shown.interruptions[0].recovery_micros == (None if price is None else PRICE)
    assert ("that took 60 min and unknown" in text(shown)) == (price is None)


def test_a_loss_that_nothing_replaced_within_the_hour_costs_nothing(rows: Rows) -> None:
    gone = utc("2026-10-05 10:00")
    lost, later = rows.machine(purchase="spot"), rows.machine(purchase="spot")
    life(rows, lost, status="lost", requested_at=gone - HOUR, launched_at=gone - HOUR, missing_since=gone)
    life(rows, later, requested_at=gone + 2 * HOUR, launched_at=gone + 2 * HOUR, ready_at=gone + 3 * HOUR)
    rows.charge(later, gone + 2 * HOUR, gone + 4 * HOUR, PRICE)
    (found,) = report(rows, "2026-10", utc("2026-11-01")).interruptions
    assert (found.count, found.replaced, found.recovery_micros) == (1, 0, 0)


def test_the_price_chain_adds_up_row_by_row(rows: Rows) -> None:
    prices.seed(rows.ledger)
    machine = rows.machine(purchase="spot")
    rows.charge(machine, utc("2026-10-01"), utc("2026-10-01 10:00"), 600_000)
    rows.charge(machine, utc("2026-10-02"), utc("2026-10-02"), None, amount=-100_000)
    rows.charge(rows.machine(), utc("2026-10-01"), utc("2026-10-01 10:00"), PRICE)
    by_terms = {row.purchase: row for row in report(rows, "2026-10", utc("2026-11-01")).rows}
    spot, full = by_terms[Purchase.SPOT], by_terms[Purchase.ON_DEMAND]
    assert (spot.list_micros, spot.discount_micros, spot.cost_micros) == (18_000_000, 12_100_000, 5_900_000)
    assert (full.list_micros, full.discount_micros) == (18_000_000, 0)
    assert spot.rate_micros == 590_000


def test_where_the_prices_are_from_and_how_old_they_are(rows: Rows) -> None:
    offer = Offer(
        id="o", provider="simulated", zone="", instance_type="", gpu="RTX 3060", purchase=Purchase.ON_DEMAND,
        price_per_hour_micros=PRICE, currency="CNY",
    )  # fmt: skip
    with rows.ledger.write() as tx:
        offers.record(tx, [offer], "my contract", utc("2026-09-20"))
    machine = rows.machine()
    life(rows, machine, launched_at=utc("2026-10-01"))
    rows.charge(machine, utc("2026-10-01"), utc("2026-10-02"), PRICE)
    found = report(rows, "2026-10", utc("2026-10-20"))
    assert "prices: my contract (newest 30 days old)" in text(found)
    assert to_json(found)["prices"] == [{"source": "my contract", "recorded_at": "2026-09-20T00:00:00Z"}]


def test_prices_that_were_taken_in_after_the_month_have_no_age_in_it(rows: Rows) -> None:
    offer = Offer(
        id="o", provider="shop", zone="", instance_type="", gpu="RTX 3060", purchase=Purchase.ON_DEMAND,
        price_per_hour_micros=PRICE, currency="CNY",
    )  # fmt: skip
    with rows.ledger.write() as tx:
        offers.record(tx, [offer], "list", utc("2026-11-20"), effective_at=utc("2026-09-01"))
    machine = rows.machine()
    life(rows, machine, launched_at=utc("2026-10-01"))
    rows.charge(machine, utc("2026-10-01"), utc("2026-10-02"), PRICE)
    found = report(rows, "2026-10", utc("2026-11-21"))
    assert "prices: list (newest taken in afterwards)" in text(found)
    assert "价格来源: list（最新价格为事后录入）" in text(found, "zh")


def test_what_a_provider_says_of_its_own_prices_is_as_old_as_the_question(rows: Rows) -> None:
    offer = Offer(
        id="o", provider="simulated", zone="", instance_type="", gpu="RTX 3060", purchase=Purchase.ON_DEMAND,
        price_per_hour_micros=PRICE, currency="CNY",
    )  # fmt: skip
    with rows.ledger.write() as tx:
        offers.record(tx, [offer], quotes.OF_PROVIDER, utc("2026-10-01"), effective_at=quotes.SINCE_EVER)
    machine = rows.machine()
    life(rows, machine, launched_at=utc("2026-10-01"))
    rows.charge(machine, utc("2026-10-01"), utc("2026-10-02"), PRICE)
    assert "prices: simulated (newest 19 days old)" in text(report(rows, "2026-10", utc("2026-10-20")))


def test_a_name_that_is_also_a_word_of_the_report_stays_a_name(rows: Rows) -> None:
    rows.charge(rows.machine(deployment="spot"), utc("2026-10-01"), utc("2026-10-02"), PRICE)
    terms = Terms(name="spot", model="m", zone=UTC_ZONE, currency="CNY", budget=Budget(monthly_micros=100 * PRICE))
    found = text(report(rows, "2026-10", utc("2026-11-01"), terms), "zh")
    assert "spot 预算" in found and "spot：配置中没有基准" in found


def test_nobody_knows_how_old_a_list_without_dates_is(rows: Rows) -> None:
    prices.seed(rows.ledger, utc("2026-10-19"))
    machine = rows.machine()
    life(rows, machine, launched_at=utc("2026-10-01"), offer_id="market/RTX 3060")
    rows.charge(machine, utc("2026-10-01"), utc("2026-10-02"), PRICE)
    found = report(rows, "2026-10", utc("2026-10-20"))
    assert to_json(found)["prices"] == [{"source": "seed", "recorded_at": None}]
    for language, said in (("en", "prices: seed (undated)"), ("zh", "价格来源: seed（日期不明）")):
        assert said in text(found, language) and said in html_text(found, language)


def test_disks_stand_apart(rows: Rows) -> None:
    machine = rows.machine()
    rows.charge(machine, utc("2026-10-01"), utc("2026-10-01 10:00"), PRICE)
    rows.charge(machine, utc("2026-10-01"), utc("2026-10-02"), 100_000, kind="disk")
    found = report(rows, "2026-10", utc("2026-11-01"))
    assert dict(found.kinds) == {"compute": 10 * PRICE, "disk": 2_400_000}
    assert "Of it beside machine hours: disk 2.40" in text(found)


# --- Chinese, HTML ----------------------------------------------------------------------------------------------------

SPEC = """
name: ocr
model: cv_resnet18_ocr-detection
provider: simulated
currency: CNY
schedule: {timezone: Asia/Shanghai, windows: ["Mon-Sun 08:00-20:00"]}
budget: {monthly: 600 CNY}
baseline: {gpu: RTX 3090, purchase: on_demand, replicas: 1, always_on: true}
"""


@pytest.fixture
def home(tmp_path: Path, rows: Rows) -> Path:
    """From September to the 11th of October, by day, on spot; one machine was lost."""
    prices.seed(rows.ledger)
    rows.deployment("ocr", SPEC, at=utc("2026-08-31 16:00"))
    for day in range(41):
        start = utc("2026-09-01") + day * DAY
        machine = rows.machine(purchase="spot", ready=(start, start + 12 * HOUR))
        life(rows, machine, requested_at=start, launched_at=start - HOUR / 6)
        rows.charge(machine, start - HOUR / 6, start + 12 * HOUR + day * HOUR / 60, 770_000)
        rows.images(machine, start, 40_000)
    life(rows, machine, status="preempted")
    return tmp_path


def halve(home: Path, *words: str, columns: int = 80) -> str:
    env = {"HALVE_HOME": str(home), "COLUMNS": str(columns), "HALVE_DATABASE_URL": None}
    found = CliRunner().invoke(app, ["report", *words], env=env)
    assert found.exit_code == 0, found.output
    return found.stdout


def mid_october(rows: Rows) -> MonthReport:
    return of_ledger(rows.ledger, "2026-10", utc("2026-10-12"))


ENGLISH = ("total", "cost", "month", "saved", "baseline", "unknown", "interrupt", "forecast", "note", "hours", "days")


@pytest.mark.parametrize("width", [80, 140])
def test_in_chinese_nothing_is_left_in_english(home: Path, rows: Rows, width: int) -> None:
    page = text(mid_october(rows), "zh", width)
    assert [word for word in ENGLISH if word in page.lower()] == []
    assert all(
        word in page for word in ("账期 2026-10", "原价", "优惠", "应付", "环比 2026-09", "竞价实例", "¥", "合计")
    )
    rest = html_text(mid_october(rows), "zh").split("</style>")[1]
    assert [word for word in ENGLISH if word in rest.lower()] == []
    assert '<html lang="zh-CN">' in html_text(mid_october(rows), "zh")


def test_every_template_of_the_source_is_translated() -> None:
    """What is said through `say` or as a Said has a Chinese."""
    import ast

    from orchestrator import reports
    from orchestrator.reports.chinese import CHINESE

    said = set()
    for file in Path(reports.__file__ or "").parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("say", "Said") and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    said.add(first.value)
    assert len(said) > 30
    assert sorted(said - CHINESE.keys()) == []


def test_a_said_is_its_english_and_knows_its_chinese() -> None:
    said = Said("no data: nothing ran in {month}", month="2026-10")
    assert said == "no data: nothing ran in 2026-10" == Words("en")(said)
    assert Words("zh")(said) == "没有数据：2026-10 没有机器运行"


def test_the_chinese_csv_opens_in_excel(home: Path, rows: Rows) -> None:
    lines = csv_text(mid_october(rows), "zh").splitlines()
    assert lines[0].startswith("\ufeff账期,部署,GPU,计费方式") and "原价,优惠,应付" in lines[0]
    listed, discount, due = (float(value) for value in lines[1].split(",")[7:10])
    assert listed - discount == pytest.approx(due)
    target = home / "october.csv"
    halve(home, "--month", "2026-10", "--csv", "--lang", "zh", "--output", str(target))
    assert target.read_bytes().startswith(b"\xef\xbb\xbf")


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_80_columns_hold_it(home: Path, rows: Rows, lang: str) -> None:
    from rich.cells import cell_len

    for width in (80, 140):
        lines = [line.rstrip() for line in text(mid_october(rows), lang, width).splitlines()]
        assert max(map(cell_len, lines)) <= width


class Links(HTMLParser):
    """What a page would load, and whether its tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [f"{tag} {name}" for name, value in attrs if name in ("src", "href") or "url(" in (value or "")]
        if tag not in ("meta", "rect", "line"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in ("rect", "line") or self.open.pop() == tag


def test_the_html_loads_nothing_and_says_it_all(home: Path, rows: Rows) -> None:
    report = mid_october(rows)
    page = html_text(report)
    links = Links()
    links.feed(page)
    assert links.loaded == [] and links.open == [] and "@import" not in page and "<script" not in page
    assert page.count("<svg") == 2
    assert "an estimate, not an invoice" in page and "Saved" not in page.split("<style>")[0]
    assert f"<title>{report.days[0].date}: " in page


def test_html_escapes_what_specs_say(rows: Rows) -> None:
    rows.charge(rows.machine(gpu="<script>alert(1)</script>"), utc("2026-10-01"), utc("2026-10-02"), PRICE)
    assert "<script" not in html_text(report(rows, "2026-10", utc("2026-11-01")))


def test_the_command_speaks_both(home: Path) -> None:
    assert "<!doctype html>" in halve(home, "--month", "2026-10", "--html")
    assert "账期 2026-10" in halve(home, "--month", "2026-10", "--lang", "zh")
    found = json.loads(halve(home, "--month", "2026-10", "--json"))
    assert found["budgets"][0]["limit_micros"] == 600_000_000
    assert found["interruptions"][0]["count"] == 1 and found["estimate"] is True
    wrong = CliRunner().invoke(app, ["report", "--lang", "fr"], env={"HALVE_HOME": str(home)})
    assert wrong.exit_code == 2
