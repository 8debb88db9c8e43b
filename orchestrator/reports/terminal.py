"""A month report for the terminal, from 80 columns up, in English or Chinese."""

import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.ledger.reporting import Quoted
from orchestrator.reports.budgets import BudgetLine
from orchestrator.reports.figures import PIPED_WIDTH, UNKNOWN, age, amount, count, hours, money, percent
from orchestrator.reports.hosts import HostRow
from orchestrator.reports.month import MonthReport
from orchestrator.reports.savings import Savings
from orchestrator.reports.table import digits, fitting, signed
from orchestrator.reports.words import Words

BARS = "▁▂▃▄▅▆▇█"
BUDGET_CELLS = 20
#: a share of the hours spent starting up that is worth a line
WORTH_SAYING = Fraction(1, 100)


def text(report: MonthReport, language: str = "en", width: int = PIPED_WIDTH) -> str:
    """The report as plain text, as `show` prints it."""
    page = Console(file=io.StringIO(), width=width, color_system=None)
    with page.capture() as captured:
        show(report, page, language)
    return captured.get()


def show(report: MonthReport, console: Console, language: str = "en") -> None:
    """Print the report."""
    say = Words(language)
    for line in heading(report, say):
        console.print(Text(line), style="bold")
    if report.simulated:
        console.print(say("SIMULATED: no machine ran and no money was spent."), style="bold reverse")
    if report.rows:
        console.print()
        console.print(fitting(report, say, console))
        console.print()
    bars = (f"{_bar(budget)} {budget_words(budget, say)}" for budget in report.budgets)
    for line in (*bars, *below(report, say)):
        console.print(Text(line), highlight=False)
    if len(report.days) > 1:
        costs = [day.cost_micros for day in report.days]
        console.print(Text(f"{say('By day')}: {_sparkline(costs)}"), highlight=False)
    if report.savings is not None:
        console.print()
        console.print(Text(say("Saved against {baseline}:", baseline=against(report, say))))
        console.print(_waterfall(report, report.savings, say))
    if report.notes:
        console.print()
    for note in report.notes:
        console.print(Text(f"{say('note')}: {say(note)}"), style="dim")


def heading(report: MonthReport, say: Words) -> Iterator[str]:
    """Month, zone, currency, until when; where the prices are from, and how old they are."""
    parts = [say("{month}", month=report.month), report.zone, *([report.currency] if report.currency else [])]
    if report.rows and not report.over:
        parts.append(say("until {at}", at=f"{report.until.astimezone(ZoneInfo(report.zone)):%Y-%m-%d %H:%M}"))
    yield " · ".join([*parts, say("an estimate, not an invoice")])
    if report.priced:
        yield f"{say('prices')}: {', '.join(_source(one, report, say) for one in report.priced)}"


def _source(one: Quoted, report: MonthReport, say: Words) -> str:
    if one.recorded_at is None:
        return say("{source} (undated)", source=one.source)
    if one.recorded_at > report.until:
        return say("{source} (newest taken in afterwards)", source=one.source)
    return say("{source} (newest {age} old)", source=one.source, age=age(report.until - one.recorded_at, say))


def below(report: MonthReport, say: Words) -> Iterator[str]:
    """What stands under the table, a line each."""
    code, places = report.currency, digits(report)
    if report.unknown_hours:
        yield say("+ unknown: {hours} hours ran at a price that nobody knows.", hours=hours(report.unknown_hours))
    for other, micros in report.unconverted:
        foreign = f"{money(micros)} {other}"
        yield say(
            "+ {amount}, not added: no rate from {other} to {code} in a spec.", amount=foreign, other=other, code=code
        )
    if len(report.hosts) > 1:
        yield from map(partial(host_line, report, say), report.hosts)
    for one, template in (
        (report.last_month, "last month, {month}: {whole}; days 1 to {days}: {before}, now {now} ({change})"),
        (report.last_year, "a year ago, {month}: {whole}; days 1 to {days}: {before}, now {now} ({change})"),
    ):
        if one is not None:
            yield say(
                template,
                month=one.month,
                whole=money(one.whole_micros, places),
                days=one.days,
                before=money(one.before_micros, places),
                now=money(one.micros, places),
                change=change(one.before_micros, one.micros),
            )
    if report.forecast is not None and not report.over:
        ahead = report.forecast
        known = report.unknown_hours or report.unconverted
        template = (
            "At this pace of what is known, at the month's end: {amount}"
            if known
            else ("At this pace, at the month's end: {amount}")
        )
        line = say(template, amount=signed(report, ahead.micros, say))
        if ahead.low_micros is not None and ahead.high_micros is not None:
            low, high = money(ahead.low_micros, places), money(ahead.high_micros, places)
            line += say(" (8 of 10: {low} to {high})", low=low, high=high)
        yield line
    beside = [(kind, micros) for kind, micros in report.kinds if kind != "compute"]
    if beside:
        parts = ", ".join(f"{say(kind)} {money(micros, places)}" for kind, micros in beside)
        yield say("Of it beside machine hours: {parts}", parts=parts)
    boot = sum((row.boot_hours for row in report.rows), Fraction(0))
    if boot >= WORTH_SAYING * sum((row.hours for row in report.rows), Fraction(0)) > 0:
        yield say("Of the hours, {hours} were spent starting up.", hours=hours(boot))
    yield from interruption_lines(report, say)
    if report.gaps_minutes:
        yield say(
            "No evidence for {minutes} minutes: replicas were up and no daemon looked.",
            minutes=count(report.gaps_minutes),
        )


def host_line(report: MonthReport, say: Words, one: HostRow) -> str:
    """What one of one's own machines cost, and what it read for it."""
    cost = say(UNKNOWN) if one.cost_micros is None else signed(report, one.cost_micros, say)
    return say(
        "{host}, {deployment}: {hours} h, {cost}, {images} images",
        host=say("this machine") if one.provider == "local" else one.host,
        deployment=one.deployment,
        hours=hours(one.hours),
        cost=f"{cost} + {say(UNKNOWN)}" if one.unknown_hours and one.cost_micros is not None else cost,
        images=count(one.images),
    )


def interruption_lines(report: MonthReport, say: Words) -> Iterator[str]:
    """A line for each kind of machine of which some were lost."""
    for one in report.interruptions:
        cost = say(UNKNOWN) if one.recovery_micros is None else amount(one.recovery_micros, report.currency, say, 4)
        yield say(
            "{deployment}, {gpu} {terms}: {count} lost, {replaced} replaced; that took {minutes} min and {cost}",
            deployment=one.deployment,
            gpu=one.gpu,
            terms=one.purchase.value.replace("_", "-"),
            count=one.count,
            replaced=one.replaced,
            minutes=round(one.boot_seconds / 60),
            cost=cost,
        )


def budget_words(budget: BudgetLine, say: Words) -> str:
    """What is spent of a budget, what is foretold, and what happens at which share."""
    steps = " · ".join(f"{share:.0%} {say(step.value)}" for share, step in sorted(budget.at))
    line = say(
        "{share} of {name}'s {limit}",
        share=percent(budget.spent_micros, budget.limit_micros),
        name=budget.deployment,
        limit=amount(budget.limit_micros, budget.currency, say),
    )
    if budget.reached:
        line += say(", {step} is reached", step=budget.reached.value)
    if budget.forecast_micros is not None:
        line += say(", {share} at the month's end", share=percent(budget.forecast_micros, budget.limit_micros))
    return f"{line} [{steps}]"


def against(report: MonthReport, say: Words) -> str:
    """The baseline in words."""
    return "; ".join(say(one) for one in report.against)


def causes(saved: Savings, say: Words) -> list[tuple[str, int]]:
    """The savings by cause, in the order in which they are counted."""
    return [
        (say("closed hours"), saved.window_micros),
        (say("scaling"), saved.scaling_micros),
        (say("GPU ({basis})", basis=saved.basis), saved.gpu_micros),
        (say("spot"), saved.spot_micros),
    ]


def change(before: int, now: int) -> str:
    """How much more, with its sign; unknown from nothing."""
    return f"{round(Fraction(100 * (now - before), before)):+d}%" if before > 0 else UNKNOWN


def _waterfall(report: MonthReport, saved: Savings, say: Words) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    places = digits(report)
    table.add_row(f"  {say('baseline')}", money(saved.baseline_micros, places), "")
    for name, micros in causes(saved, say):
        sign = "+" if micros < 0 else ""
        table.add_row(f"  {name}", sign + money(-micros, places), share(-micros, saved.baseline_micros))
    table.add_row(f"  {say('paid')}", money(saved.actual_micros, places), "")
    all_saved = saved.baseline_micros - saved.actual_micros
    label = say("saved" if all_saved >= 0 else "spent more")
    table.add_row(
        f"  {label}", money(abs(all_saved), places), share(abs(all_saved), saved.baseline_micros), style="bold"
    )
    return table


def share(micros: int, whole: int) -> str:
    """In whole percent; nothing where that is 0."""
    found = round(100 * micros / whole) if whole else 0
    return f"{found}%" if found else ""


def _bar(budget: BudgetLine) -> str:
    filled = min(BUDGET_CELLS, max(0, budget.spent_micros) * BUDGET_CELLS // budget.limit_micros)
    return "█" * filled + "░" * (BUDGET_CELLS - filled)


def _sparkline(costs: Sequence[int]) -> str:
    most = max(costs)
    if most <= 0:
        return BARS[0] * len(costs)
    return "".join(BARS[(2 * max(0, cost) * (len(BARS) - 1) + most) // (2 * most)] for cost in costs)
