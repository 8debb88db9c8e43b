"""A month report as one HTML file that loads nothing: tables, and plots drawn into it."""

from collections.abc import Iterable
from html import escape

from orchestrator.reports import drawing, table, terminal
from orchestrator.reports.figures import money
from orchestrator.reports.month import MonthReport, Row
from orchestrator.reports.words import Words

STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --dim: #5c6b7a; --line: #d8dee5; --paper: #fff; --card: #f5f7f9 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ee; --dim: #98a5b3; --line: #37424e; --paper: #14191f; --card: #1d242c }
}
body { font: 15px/1.5 system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif;
  color: var(--ink); background: var(--paper); max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem }
p { margin: .2rem 0 } .dim { color: var(--dim) }
.simulated { background: #d55e00; color: #fff; padding: .4rem .8rem; border-radius: .3rem; font-weight: 600 }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0 }
.card { background: var(--card); border-radius: .5rem; padding: .7rem 1rem; flex: 1 1 9rem; box-sizing: border-box }
.card b { display: block; font-size: 1.35rem; white-space: nowrap; font-variant-numeric: tabular-nums }
.card span { color: var(--dim); font-size: .85rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap }
th { color: var(--dim); font-weight: 500 } tfoot td { font-weight: 600 }
th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left }
svg { width: 100%; min-width: 40rem; height: auto }
svg text { font-size: 12px; fill: var(--dim) } .rule { stroke: var(--line) }
.bar { background: var(--line); border-radius: .3rem; height: .7rem; overflow: hidden; max-width: 30rem }
.told { margin-top: 1.5rem }
.bar i { display: block; height: 100%; background: #0072b2 }
"""


def html_text(report: MonthReport, language: str = "en") -> str:
    """The whole page."""
    say = Words(language)
    title = say("halve: month report {month}", month=report.month)
    body = "\n".join(part for part in _sections(report, say, title) if part)
    return (
        f'<!doctype html>\n<html lang="{"zh-CN" if language == "zh" else "en"}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _sections(report: MonthReport, say: Words, title: str) -> Iterable[str]:
    yield f"<h1>{escape(title)}</h1>"
    yield from (f'<p class="dim">{escape(line)}</p>' for line in terminal.heading(report, say))
    if report.simulated:
        yield f'<p class="simulated">{escape(say("SIMULATED: no machine ran and no money was spent."))}</p>'
    if report.rows:
        yield _cards(report, say)
        yield _table(report, say)
    yield from _plots(report, say)
    yield from _budgets(report, say)
    told = [*terminal.below(report, say), *(f"{say('note')}: {say(note)}" for note in report.notes)]
    lines = "".join(f'<p class="dim">{escape(line)}</p>' for line in told)
    yield f'<div class="told">{lines}</div>'


def _cards(report: MonthReport, say: Words) -> str:
    places = table.digits(report)
    cards = [(say("total"), table.total(report, say), report.currency)]
    for name, one in ((say("last month"), report.last_month), (say("a year ago"), report.last_year)):
        if one is not None:
            shift = terminal.change(one.before_micros, one.micros)
            cards.append((f"{name} {one.month}", table.signed(report, one.whole_micros, say), shift))
    if report.forecast is not None and not report.over:
        ahead = report.forecast
        spread = ""
        if ahead.low_micros is not None and ahead.high_micros is not None:
            spread = f"{money(ahead.low_micros, places)} - {money(ahead.high_micros, places)}"
        cards.append((say("forecast"), table.signed(report, ahead.micros, say), spread))
    if (saved := report.savings) is not None:
        amount = saved.baseline_micros - saved.actual_micros
        share = terminal.share(amount, saved.baseline_micros)
        cards.append((say("saved"), table.signed(report, amount, say), share))
    shown = (
        f'<div class="card"><span>{escape(name)}</span><b>{escape(value)}</b><span>{escape(under)}</span></div>'
        for name, value, under in cards
    )
    return f'<div class="cards">{"".join(shown)}</div>'


def _table(report: MonthReport, say: Words) -> str:
    columns = (*table.WORDS, *table.FIGURES)
    head = "".join(f"<th>{escape(say(name))}</th>" for name in columns)
    rows = "".join(f"<tr>{_row(report, row, say)}</tr>" for row in report.rows)
    totals = table.totals(report, say)
    foot = "".join(f"<td>{escape(totals.get(name, ''))}</td>" for name in columns)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>'
        f"<tfoot><tr>{foot}</tr></tfoot></table></div>"
    )


def _row(report: MonthReport, row: Row, say: Words) -> str:
    cells = table.cells(report, row, say)
    return "".join(f"<td>{escape(cells[name])}</td>" for name in (*table.WORDS, *table.FIGURES))


def _plots(report: MonthReport, say: Words) -> Iterable[str]:
    places = table.digits(report)
    if len(report.days) > 1:
        title = say("Cost by day")
        costs = [day.cost_micros for day in report.days]
        shown = [money(micros, places) for micros in costs]
        tips = [f"{day.date}: {words}" for day, words in zip(report.days, shown, strict=True)]
        yield f"<h2>{escape(title)}</h2>"
        yield _wide(drawing.bars([str(day.date.day) for day in report.days], costs, shown, tips, title))
    if (saved := report.savings) is not None:
        title = say("From the baseline to what was paid")
        steps = [(say("baseline"), saved.baseline_micros)]
        steps += [(name, -micros) for name, micros in terminal.causes(saved, say)]
        steps.append((say("paid"), saved.actual_micros))
        yield f"<h2>{escape(title)}</h2>"
        yield f'<p class="dim">{escape(terminal.against(report, say))}</p>'
        signs = ["", *("+" if micros > 0 else "" for _, micros in steps[1:-1]), ""]
        drawn = [
            (name, micros, sign + money(micros, places)) for (name, micros), sign in zip(steps, signs, strict=True)
        ]
        yield _wide(drawing.waterfall(drawn, title))


def _wide(plot: str) -> str:
    """Its words stay readable: where there is no room for it, it moves under the finger as the table does."""
    return f'<div class="scroll" tabindex="0">{plot}</div>'


def _budgets(report: MonthReport, say: Words) -> Iterable[str]:
    if report.budgets:
        yield f"<h2>{escape(say('Budget'))}</h2>"
    for one in report.budgets:
        share = min(100.0, max(0.0, 100 * one.spent_micros / one.limit_micros))
        yield f"<p>{escape(terminal.budget_words(one, say))}</p>"
        yield f'<div class="bar"><i style="width: {share:.1f}%"></i></div>'
