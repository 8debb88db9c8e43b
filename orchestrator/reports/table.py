"""The table of a month report: its columns, and what stands in each, for the terminal and the page alike."""

from collections.abc import Sequence
from fractions import Fraction

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.reports.figures import UNKNOWN, amount, count, hours, money, sign
from orchestrator.reports.month import MonthReport, Row
from orchestrator.reports.words import Words

#: below this total (micro-units) two decimals would say too little
SMALL = 10_000_000
#: the columns of the table: words, then figures
WORDS = ("deployment", "GPU", "terms")
FIGURES = ("hours", "busy", "per hour", "list", "discount", "cost", "images", "per 1,000")
#: what is left out where there is no room, by language. Chinese bills are read from the list price by the discount to
#: what is due
HIDDEN: dict[str, tuple[tuple[str, ...], ...]] = {
    "en": ((), ("list", "discount"), ("list", "discount", "busy"), ("list", "discount", "busy", "per hour")),
    "zh": ((), ("busy", "per hour"), ("busy", "per hour", "per 1,000")),
}


def fitting(report: MonthReport, say: Words, console: Console) -> Table:
    """The table with as many columns as there is room for."""
    tables = (_table(report, say, hidden) for hidden in HIDDEN[say.language])
    narrowest = None
    for narrowest in tables:
        if console.measure(narrowest, options=console.options.update(width=10_000)).maximum <= console.width:
            break
    assert narrowest is not None
    return narrowest


def _table(report: MonthReport, say: Words, hidden: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True, show_footer=True)
    last = totals(report, say)
    for name in WORDS:
        table.add_column(say(name), overflow="fold", no_wrap=name == "terms", footer=last.get(name, ""))
    figures = [name for name in FIGURES if name not in hidden]
    for name in figures:
        table.add_column(say(name), justify="right", no_wrap=True, footer=last.get(name, ""))
    for row in report.rows:
        mine = cells(report, row, say)
        table.add_row(*(Text(mine[name]) for name in (*WORDS, *figures)))
    return table


def cells(report: MonthReport, row: Row, say: Words) -> dict[str, str]:
    """One line of the table, by column."""
    places = digits(report)
    return {
        "deployment": row.deployment,
        "GPU": row.gpu,
        "terms": say(row.purchase.value.replace("_", "-")),
        "hours": hours(row.hours),
        "busy": "-" if row.busy_share is None else f"{float(row.busy_share):.0%}",
        "per hour": "-" if row.rate_micros is None else money(row.rate_micros, 4),
        "list": say(money(row.list_micros, places)),
        "discount": say(money(row.discount_micros, places)),
        "cost": _row_cost(report, row, say),
        "images": count(row.images),
        "per 1,000": _per_1000(row, say),
    }


def totals(report: MonthReport, say: Words) -> dict[str, str]:
    """The last line of the table, by column."""
    listed = [row.list_micros for row in report.rows if row.list_micros is not None]
    found = {
        "deployment": say("total"),
        "hours": hours(sum((row.hours for row in report.rows), Fraction(0))),
        "cost": total(report, say),
        "images": count(sum(row.images for row in report.rows)),
    }
    if listed and report.total_micros is not None:
        places = digits(report)
        found["list"] = money(sum(listed), places)
        found["discount"] = money(sum(listed) - report.total_micros, places)
    return found


def total(report: MonthReport, say: Words) -> str:
    """The known total, and the word unknown where there is more to it."""
    mark = "" if report.total_micros is None else sign(report.currency, say)
    return mark + _cost(report, report.total_micros, report.unknown_hours, say)


def signed(report: MonthReport, micros: int, say: Words) -> str:
    """An amount with its currency, as people of that language write it."""
    return amount(micros, report.currency, say, digits(report))


def digits(report: MonthReport) -> int:
    """Decimals that say enough for the size of the month."""
    return 2 if (report.total_micros or 0) >= SMALL else 4


def _row_cost(report: MonthReport, row: Row, say: Words) -> str:
    foreign = [f"{money(micros)} {code}" for code, micros in row.unconverted]
    if foreign and row.cost_micros is None and not row.unknown_hours:
        return "\n".join(foreign)
    return "\n".join([_cost(report, row.cost_micros, row.unknown_hours, say), *foreign])


def _cost(report: MonthReport, micros: int | None, unknown_hours: Fraction, say: Words) -> str:
    if micros is None:
        return say(UNKNOWN)
    known = money(micros, digits(report))
    return f"{known} + {say(UNKNOWN)}" if unknown_hours else known


def _per_1000(row: Row, say: Words) -> str:
    if row.cost_per_1000_micros is not None:
        return money(row.cost_per_1000_micros, 4)
    return say(UNKNOWN) if row.images else "-"
