"""A month report as the page shows it: the figures of `halve report`, and how long the bars are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from orchestrator.dashboard.words import PageWords
from orchestrator.reports import table, terminal
from orchestrator.reports.budgets import BudgetLine
from orchestrator.reports.figures import money
from orchestrator.reports.month import MonthReport
from orchestrator.reports.savings import Savings


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A line of the waterfall. `left` and `wide` are the bar's, in thousandths of the width."""

    name: str
    micros: int  # of a cause: less than 0 is a saving
    kind: str  # baseline | saved | dearer | paid
    words: str
    share: str
    left: float
    wide: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """A budget: how full it is, in thousandths, never beyond its end."""

    line: BudgetLine
    words: str
    full: float


def shown(report: MonthReport, say: PageWords) -> Mapping[str, Any]:
    """What the template needs of a report."""
    places = table.digits(report)
    year, number = map(int, report.month.split("-"))
    middle = date(year, number, 15)
    return {
        "report": report,
        "places": places,
        "heading": [*terminal.heading(report, say)],
        "columns": (*table.WORDS, *table.FIGURES),
        "words": table.WORDS,
        "cells": [(row, table.cells(report, row, say)) for row in report.rows],
        "totals": table.totals(report, say),
        "cards": _cards(report, say),
        "waterfall": waterfall(report.savings, say, places) if report.savings is not None else [],
        "against": terminal.against(report, say),
        "gauges": [_gauge(one, say) for one in report.budgets],
        "told": [*terminal.below(report, say), *(f"{say('note')}: {say(note)}" for note in report.notes)],
        "days": {
            "labels": [f"{day.date:%m-%d}" for day in report.days],
            "values": [day.cost_micros / 1e6 for day in report.days],
            "currency": report.currency,
        },
        "before": _month_beside(middle, -1),
        "after": _month_beside(middle, 1) if report.over else None,
    }


def waterfall(saved: Savings, say: PageWords, places: int) -> list[Step]:
    """From the baseline to what was paid, cause by cause."""
    lines = [(say("baseline"), saved.baseline_micros, "baseline")]
    lines += [(name, -micros, "saved" if micros >= 0 else "dearer") for name, micros in terminal.causes(saved, say)]
    lines.append((say("paid"), saved.actual_micros, "paid"))
    ends, level = [], 0
    for _, micros, kind in lines:
        start = 0 if kind in ("baseline", "paid") else level
        level = start + micros
        ends.append((min(start, level), max(start, level)))
    low, high = min(0, *(end for end, _ in ends)), max(1, *(end for _, end in ends))
    scale = 1000 / (high - low)
    return [
        Step(
            name=name,
            micros=micros,
            kind=kind,
            words=("+" if kind == "dearer" and micros else "") + money(micros, places),
            share=terminal.share(micros, saved.baseline_micros) if kind not in ("baseline",) else "",
            left=round((left - low) * scale, 2),
            wide=round(max(2.0, (right - left) * scale), 2),
        )
        for (name, micros, kind), (left, right) in zip(lines, ends, strict=True)
    ]


def _cards(report: MonthReport, say: PageWords) -> Sequence[tuple[str, str, str, int | None]]:
    """(name, amount in words, what stands under it, micro-units)."""
    places = table.digits(report)
    day = (report.until - timedelta(microseconds=1)).astimezone(ZoneInfo(report.zone)).date()
    total = table.total(report, say)
    if report.total_micros is not None and not report.unknown_hours:
        total = table.signed(report, report.total_micros, say)
    cards = [(say("total"), total, say("until {day}", day=str(day)), report.total_micros)]
    if (saved := report.savings) is not None:
        amount = saved.baseline_micros - saved.actual_micros
        name = say("saved" if amount >= 0 else "spent more")
        under = say("{share} of the baseline", share=terminal.share(abs(amount), saved.baseline_micros) or "0%")
        cards.append((name, table.signed(report, abs(amount), say), under, abs(amount)))
    if report.forecast is not None and not report.over:
        ahead, spread = report.forecast, ""
        if ahead.low_micros is not None and ahead.high_micros is not None:
            spread = f"{money(ahead.low_micros, places)} – {money(ahead.high_micros, places)}"
        cards.append((say("forecast"), table.signed(report, ahead.micros, say), spread, ahead.micros))
    for name, one in ((say("last month"), report.last_month), (say("a year ago"), report.last_year)):
        if one is not None:
            shift = say(
                "days 1 to {day}: {change}", day=one.days, change=terminal.change(one.before_micros, one.micros)
            )
            cards.append((f"{name} {one.month}", table.signed(report, one.whole_micros, say), shift, one.whole_micros))
    return cards


def _gauge(line: BudgetLine, say: PageWords) -> Gauge:
    full = min(1000.0, max(0.0, 1000 * line.spent_micros / line.limit_micros)) if line.limit_micros else 1000.0
    return Gauge(line=line, words=terminal.budget_words(line, say), full=round(full, 1))


def _month_beside(middle: date, months: int) -> str:
    number = middle.year * 12 + middle.month - 1 + months
    return f"{number // 12:04d}-{number % 12 + 1:02d}"
