"""The pictures of the month report in docs/, made again by `python -m tests.browser.report_pictures`.

The month is the same each time: two deployments that were busy by day, on spot machines of which some were lost.
"""

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from rich.cells import cell_len

from orchestrator import prices
from orchestrator.ledger import offers
from orchestrator.ledger import tables as t
from orchestrator.reports.month import MonthReport, of_ledger
from orchestrator.reports.page import html_text
from orchestrator.reports.terminal import text
from policies.snapshot import Offer, Purchase
from tests.orchestrator.report_ledger import Rows, rows_in, utc

if TYPE_CHECKING:
    from playwright.sync_api import Browser

DOCS = Path(__file__).parents[2] / "docs"
LANGUAGES = ("en", "zh")
#: as many columns as the plainest terminal has; and room for every column of the table
COLUMNS = {"terminal": 80, "wide": 120}
DESK, PHONE = (1000, 800), (390, 844)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
FIRST, NOW = utc("2026-08-31 16:00"), utc("2026-10-19 02:00")  # in Shanghai the 1st of September, and 10 o'clock
SPEC = """
name: {name}
model: cv_resnet18_ocr-detection
provider: simulated
currency: CNY
schedule: {{timezone: Asia/Shanghai, windows: ["Mon-Sat 08:00-20:00"]}}
budget: {{monthly: {budget}, at: {{80%: warn, 95%: spot-only, 100%: stop}}}}
baseline: {{gpu: RTX 3090, purchase: on_demand, replicas: {replicas}, always_on: true}}
"""
#: micro-units an hour, on spot and on demand
PRICES = {"RTX 3060": (770_000, 1_800_000), "RTX 3090": (1_755_000, 4_200_000)}
PAPER = (
    "<!doctype html><meta charset=utf-8><style>body { margin: 1rem; background: #fff; color: #000 } pre { margin: 0; "
    'font: 15px/1.35 "DejaVu Sans Mono", "Noto Sans Mono CJK SC", monospace; display: inline-block; padding: .5rem } '
    "i { display: inline-block; width: 2ch; font-style: normal }</style>"
)


def pictured(home: Path) -> MonthReport:
    """The report of that month, from a ledger in `home`."""
    rows = rows_in(home)
    prices.seed(rows.ledger, FIRST)
    rented = Offer(
        id="o", provider="simulated", zone="", instance_type="", gpu="RTX 3060", purchase=Purchase.SPOT,
        price_per_hour_micros=770_000, currency="CNY",
    )  # fmt: skip
    with rows.ledger.write() as tx:
        offers.record(tx, [rented], "rental site", utc("2026-10-12"), effective_at=FIRST)
    rows.deployment("ocr", SPEC.format(name="ocr", budget="260 CNY", replicas=1), at=FIRST)
    rows.deployment("invoices", SPEC.format(name="invoices", budget="700 CNY", replicas=2), at=FIRST)
    drawn = random.Random(8)
    opens_at = FIRST + 8 * HOUR
    while opens_at < NOW:
        if opens_at.weekday() < 6:
            closes_at = min(opens_at + 12 * HOUR, NOW)
            _worked(rows, "ocr", "RTX 3060", opens_at, closes_at, drawn)
            busy_until = min(opens_at + drawn.uniform(6, 12) * HOUR, closes_at)
            _worked(rows, "invoices", "RTX 3090", opens_at, busy_until, drawn)
        opens_at += DAY
    report = of_ledger(rows.ledger, "2026-10", NOW)
    rows.ledger.close()
    return report


def _worked(rows: Rows, name: str, gpu: str, start: datetime, end: datetime, drawn: random.Random) -> None:
    """A machine on spot; one in five was lost, and the next hour and a half one on demand stood in for it."""
    spot, on_demand = PRICES[gpu]
    lost_at = start + drawn.uniform(1, 6) * HOUR if drawn.random() < 0.2 else end
    back_at = min(lost_at + 1.5 * HOUR, end)
    _ran(rows, rows.machine(name, gpu, "spot"), start, min(lost_at, end), spot, lost=lost_at < end)
    if lost_at < end:
        _ran(rows, rows.machine(name, gpu, "on_demand"), lost_at, back_at, on_demand)
        _ran(rows, rows.machine(name, gpu, "spot"), back_at, end, spot)


def _ran(rows: Rows, machine: str, start: datetime, end: datetime, price: int, *, lost: bool = False) -> None:
    name, _, _ = machine.rpartition("-")
    ready_at = min(start + timedelta(seconds=90), end)
    life = {"requested_at": start, "launched_at": start, "ready_at": ready_at, "ended_at": end}
    with rows.ledger.write() as tx:
        mine = t.instances.update().where(t.instances.c.id == machine)
        tx.execute(mine.values(status="preempted" if lost else "ended", **life))
    rows.charge(machine, start, end, price)
    rows.ticks(name, start, end, timedelta(minutes=1))
    for hour in range(int((end - start) / HOUR)):
        rows.images(machine, ready_at.replace(second=0) + hour * HOUR, 8_000 if name == "invoices" else 4_300)


def on_paper(told: str) -> str:
    """A page of a terminal's text, each character as many cells wide as a terminal makes it."""
    cells = "".join(f"<i>{one}</i>" if cell_len(one) == 2 else escape(one) for one in told)
    return f"{PAPER}<pre>{cells}</pre>"


@contextmanager
def chromium() -> "Iterator[Browser]":
    """Debian's, headless, loading nothing."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield opened
        opened.close()


def shot(browser: "Browser", html: str, path: Path, size: tuple[int, int], within: str | None = None) -> None:
    """A picture of a whole page, or of one element of it."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.set_content(html)
    if within is None:
        page.screenshot(path=path, full_page=True)
    else:
        page.locator(within).screenshot(path=path)
    page.close()
    with Image.open(path) as taken:  # it has few colours: a third of the bytes
        taken.convert("RGB").quantize(64).save(path, optimize=True)


def main() -> None:
    """Write them."""
    with tempfile.TemporaryDirectory() as home:
        report = pictured(Path(home))
    with chromium() as browser:
        for language in LANGUAGES:
            page = html_text(report, language)
            shot(browser, page, DOCS / f"report-html-{language}.png", DESK)
            shot(browser, page, DOCS / f"report-phone-{language}.png", PHONE)
            for name, columns in COLUMNS.items():
                shot(
                    browser,
                    on_paper(text(report, language, columns)),
                    DOCS / f"report-{name}-{language}.png",
                    (1400, 800),
                    "pre",
                )


if __name__ == "__main__":
    main()
