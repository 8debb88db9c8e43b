"""A month report for the terminal, from 80 columns up."""

import io
from collections.abc import Iterator
from fractions import Fraction

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.reports.figures import PIPED_WIDTH, UNKNOWN, count, hours, money
from orchestrator.reports.month import MonthReport, Row
from orchestrator.reports.savings import Savings
from policies.snapshot import Purchase

BARS = "▁▂▃▄▅▆▇█"
#: below this total (micro-units) two decimals would say too little
SMALL = 10_000_000
TERMS = {Purchase.SPOT: "spot", Purchase.ON_DEMAND: "on-demand", Purchase.OWNED: "owned"}


def text(report: MonthReport) -> str:
    """The report as plain text, as `show` prints it."""
    page = Console(file=io.StringIO(), width=PIPED_WIDTH, color_system=None)
    with page.capture() as captured:
        show(report, page)
    return captured.get()


def show(report: MonthReport, console: Console) -> None:
    """Print the report."""
    console.print(_heading(report), style="bold")
    if report.simulated:
        console.print("SIMULATED: no machine ran and no money was spent.", style="bold reverse")
    console.print()
    if report.rows:
        console.print(_table(report))
        console.print()
    for line in _below(report):
        console.print(line, highlight=False)
    if report.savings is not None:
        console.print()
        console.print(Text(f"Saved against {report.against}:"))
        console.print(_waterfall(report, report.savings))
    if report.notes:
        console.print()
    for note in report.notes:
        console.print(Text(f"note: {note}"), style="dim")


def _heading(report: MonthReport) -> Text:
    parts = [report.month, report.zone, *([report.currency] if report.currency else [])]
    if report.rows and not report.over:
        parts.append(f"until {report.until:%Y-%m-%d %H:%M} UTC")
    return Text(" · ".join([*parts, "an estimate, not an invoice"]))


def _table(report: MonthReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True, show_footer=True)
    table.add_column("deployment", overflow="fold", footer="total")
    table.add_column("GPU", overflow="fold")
    table.add_column("terms", no_wrap=True)
    total_hours = sum((row.hours for row in report.rows), Fraction(0))
    images = sum(row.images for row in report.rows)
    table.add_column("hours", justify="right", no_wrap=True, footer=hours(total_hours))
    table.add_column(
        "cost", justify="right", no_wrap=True, footer=_cost(report, report.total_micros, report.unknown_hours)
    )
    table.add_column("images", justify="right", no_wrap=True, footer=count(images))
    table.add_column("per 1,000", justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(
            Text(row.deployment),
            Text(row.gpu),
            TERMS[row.purchase],
            hours(row.hours),
            _row_cost(report, row),
            count(row.images),
            _per_1000(row),
        )
    return table


def _row_cost(report: MonthReport, row: Row) -> str:
    foreign = [f"{money(micros)} {code}" for code, micros in row.unconverted]
    if foreign and row.cost_micros is None and not row.unknown_hours:
        return "\n".join(foreign)
    return "\n".join([_cost(report, row.cost_micros, row.unknown_hours), *foreign])


def _cost(report: MonthReport, micros: int | None, unknown_hours: Fraction) -> str:
    if micros is None:
        return UNKNOWN
    known = money(micros, _places(report))
    return f"{known} + unknown" if unknown_hours else known


def _per_1000(row: Row) -> str:
    if row.cost_per_1000_micros is not None:
        return money(row.cost_per_1000_micros, 4)
    return UNKNOWN if row.images else "no images"


def _below(report: MonthReport) -> Iterator[Text]:
    if report.unknown_hours:
        yield Text(f"+ unknown: {hours(report.unknown_hours)} hours ran at a price that nobody knows.")
    for code, micros in report.unconverted:
        yield Text(f"+ {money(micros)} {code}, not added: no rate from {code} to {report.currency} in a spec.")
    if report.forecast_micros is not None and not report.over:
        amount = f"{money(report.forecast_micros, _places(report))} {report.currency}"
        beyond = " of what is known" if report.unknown_hours or report.unconverted else ""
        yield Text(f"At this pace{beyond}, at the month's end: {amount}")
    if len(report.days) > 1:
        yield Text(f"By day: {_sparkline([day.cost_micros for day in report.days])}")
    if report.gaps_minutes:
        yield Text(f"No evidence for {count(report.gaps_minutes)} minutes: replicas were up and no daemon looked.")


def _waterfall(report: MonthReport, saved: Savings) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    places = _places(report)
    table.add_row("  baseline", money(saved.baseline_micros, places), "")
    causes = {
        "  closed hours": saved.window_micros,
        "  scaling": saved.scaling_micros,
        f"  GPU ({saved.basis})": saved.gpu_micros,
        "  spot": saved.spot_micros,
    }
    for name, micros in causes.items():
        sign = "+" if micros < 0 else ""
        table.add_row(name, sign + money(-micros, places), _share(-micros, saved.baseline_micros))
    table.add_row("  paid", money(saved.actual_micros, places), "")
    all_saved = saved.baseline_micros - saved.actual_micros
    label = "  saved" if all_saved >= 0 else "  spent more"
    table.add_row(label, money(abs(all_saved), places), _share(abs(all_saved), saved.baseline_micros), style="bold")
    return table


def _share(micros: int, whole: int) -> str:
    share = round(100 * micros / whole) if whole else 0
    return f"{share}%" if share else ""


def _places(report: MonthReport) -> int:
    return 2 if (report.total_micros or 0) >= SMALL else 4


def _sparkline(costs: list[int]) -> str:
    most = max(costs)
    if most <= 0:
        return BARS[0] * len(costs)
    return "".join(BARS[max(0, cost) * (len(BARS) - 1) // most] for cost in costs)
