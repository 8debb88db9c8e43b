"""A month report for machines: JSON and CSV. What is unknown is null, or an empty cell; never 0."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, fields
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

from orchestrator.errors import Refused
from orchestrator.reports.comparison import Comparison
from orchestrator.reports.figures import exact
from orchestrator.reports.month import MonthReport, Row
from orchestrator.reports.savings import Savings
from orchestrator.reports.words import Words

COLUMNS = (
    *("month", "deployment", "gpu", "purchase", "hours", "unknown_hours", "currency", "cost", "images", "per_1000"),
    *("boot_hours", "busy_share", "per_hour", "list_cost"),
)
#: the same for Chinese readers, the money in the order of their bills
CHINESE_COLUMNS = (
    *("账期", "部署", "GPU", "计费方式", "小时", "价格未知小时", "币种"),
    *("原价", "优惠", "应付", "图片", "每千张"),
)
#: without it Excel takes UTF-8 for something else
BYTE_ORDER_MARK = "\ufeff"


def to_json(report: MonthReport) -> dict[str, Any]:
    """The object of `halve report --json`."""
    return {
        "month": report.month,
        "zone": report.zone,
        "currency": report.currency or None,
        "simulated": report.simulated,
        "until": _moment(report.until),
        "estimate": True,  # not an invoice
        "prices": [
            {"source": one.source, "recorded_at": None if one.recorded_at is None else _moment(one.recorded_at)}
            for one in report.priced
        ],
        "total_micros": report.total_micros,
        "unknown_hours": _rounded(report.unknown_hours),
        "unconverted": [{"currency": code, "cost_micros": micros} for code, micros in report.unconverted],
        "rows": [_row(row) for row in report.rows],
        "hosts": [
            {**asdict(one), "hours": _rounded(one.hours), "unknown_hours": _rounded(one.unknown_hours)}
            for one in report.hosts
        ],
        "days": [{"date": day.date.isoformat(), "cost_micros": day.cost_micros} for day in report.days],
        "savings": _savings(report),
        "gaps_minutes": report.gaps_minutes,
        "forecast_micros": report.forecast_micros,
        "forecast_low_micros": report.forecast.low_micros if report.forecast else None,
        "forecast_high_micros": report.forecast.high_micros if report.forecast else None,
        "kinds": [{"kind": kind, "cost_micros": micros} for kind, micros in report.kinds],
        "last_month": _comparison(report.last_month),
        "last_year": _comparison(report.last_year),
        "budgets": [
            {
                "deployment": one.deployment,
                "limit_micros": one.limit_micros,
                "spent_micros": one.spent_micros,
                "forecast_micros": one.forecast_micros,
                "at": [{"share": share, "step": step.value} for share, step in one.at],
                "reached": one.reached.value if one.reached else None,
            }
            for one in report.budgets
        ],
        "interruptions": [{**asdict(one), "purchase": one.purchase.value} for one in report.interruptions],
        "notes": list(report.notes),
    }


def json_text(report: MonthReport) -> str:
    """The same as text, one object."""
    return json.dumps(to_json(report), indent=2, ensure_ascii=False) + "\n"


def csv_text(report: MonthReport, language: str = "en") -> str:
    """The rows as CSV with a heading; money as plain decimals. An amount in another currency is a row of its own.

    In Chinese: other columns, 原价 - 优惠 = 应付, and a byte order mark for Excel.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if language == "zh":
        text.write(BYTE_ORDER_MARK)
        writer.writerow(CHINESE_COLUMNS)
        writer.writerows(_chinese_lines(report))
    else:
        writer.writerow(COLUMNS)
        writer.writerows(_lines(report))
    return text.getvalue()


def _lines(report: MonthReport) -> Iterator[tuple[object, ...]]:
    for row in report.rows:
        key = (report.month, row.deployment, row.gpu, row.purchase.value)
        hours = (_rounded(row.hours), _rounded(row.unknown_hours))
        cost = (report.currency, exact(row.cost_micros), row.images, exact(row.cost_per_1000_micros))
        busy = "" if row.busy_share is None else round(float(row.busy_share), 6)
        yield *key, *hours, *cost, _rounded(row.boot_hours), busy, exact(row.rate_micros), exact(row.list_micros)
        for code, micros in row.unconverted:
            yield *key, "", "", code, exact(micros), *[""] * 6


def _chinese_lines(report: MonthReport) -> Iterator[tuple[object, ...]]:
    say = Words("zh")
    for row in report.rows:
        key = (report.month, row.deployment, row.gpu, say(row.purchase.value))
        hours = (_rounded(row.hours), _rounded(row.unknown_hours))
        discount = row.discount_micros
        chain = (exact(row.list_micros), exact(discount), exact(row.cost_micros))
        yield *key, *hours, report.currency, *chain, row.images, exact(row.cost_per_1000_micros)
        for code, micros in row.unconverted:
            yield *key, "", "", code, "", "", exact(micros), "", ""


def put(text: str, path: Path | None, named: str = "--output ") -> None:
    """Write a report to a file, or to standard output, in UTF-8 as it says of itself. Raises Refused when the file,
    `named` so by its command, cannot be written.
    """
    if path is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")
        sys.stdout.write(text)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refused(f"{named}{path}: {error.strerror}; name a file that can be written") from None


def _row(row: Row) -> dict[str, Any]:
    return {
        "deployment": row.deployment,
        "gpu": row.gpu,
        "purchase": row.purchase.value,
        "hours": _rounded(row.hours),
        "cost_micros": row.cost_micros,
        "images": row.images,
        "cost_per_1000_micros": row.cost_per_1000_micros,
        "unknown_hours": _rounded(row.unknown_hours),
        "boot_hours": _rounded(row.boot_hours),
        "busy_share": None if row.busy_share is None else round(float(row.busy_share), 6),
        "rate_micros": row.rate_micros,
        "list_micros": row.list_micros,
        "unconverted": [{"currency": code, "cost_micros": micros} for code, micros in row.unconverted],
    }


def _savings(report: MonthReport) -> dict[str, Any]:
    names = [field.name for field in fields(Savings)]
    return {name: getattr(report.savings, name) if report.savings else None for name in names} | {
        "against": "; ".join(report.against) or None
    }


def _rounded(hours: Fraction) -> float:
    return round(float(hours), 6)


def _comparison(one: Comparison | None) -> dict[str, Any] | None:
    return None if one is None else asdict(one)


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
