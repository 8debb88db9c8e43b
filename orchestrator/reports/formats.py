"""A month report for machines: JSON and CSV. What is unknown is null, or an empty cell; never 0."""

import csv
import io
import json
import sys
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

from orchestrator.errors import Refused
from orchestrator.reports.figures import exact
from orchestrator.reports.month import MonthReport, Row
from orchestrator.reports.savings import Savings

COLUMNS = ("month", "deployment", "gpu", "purchase", "hours", "unknown_hours", "currency", "cost", "images", "per_1000")


def to_json(report: MonthReport) -> dict[str, Any]:
    """The object of `halve report --json`."""
    return {
        "month": report.month,
        "zone": report.zone,
        "currency": report.currency or None,
        "simulated": report.simulated,
        "until": f"{report.until:%Y-%m-%dT%H:%M:%SZ}",
        "total_micros": report.total_micros,
        "unknown_hours": _rounded(report.unknown_hours),
        "unconverted": [{"currency": code, "cost_micros": micros} for code, micros in report.unconverted],
        "rows": [_row(row) for row in report.rows],
        "days": [{"date": day.date.isoformat(), "cost_micros": day.cost_micros} for day in report.days],
        "savings": _savings(report),
        "gaps_minutes": report.gaps_minutes,
        "forecast_micros": report.forecast_micros,
        "notes": list(report.notes),
    }


def json_text(report: MonthReport) -> str:
    """The same as text, one object."""
    return json.dumps(to_json(report), indent=2, ensure_ascii=False) + "\n"


def csv_text(report: MonthReport) -> str:
    """The rows as CSV with a heading; money as plain decimals. An amount in another currency is a row of its own."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in report.rows:
        key = (report.month, row.deployment, row.gpu, row.purchase.value)
        per_1000 = exact(row.cost_per_1000_micros)
        hours = (_rounded(row.hours), _rounded(row.unknown_hours))
        writer.writerow((*key, *hours, report.currency, exact(row.cost_micros), row.images, per_1000))
        for code, micros in row.unconverted:
            writer.writerow((*key, "", "", code, exact(micros), "", ""))
    return text.getvalue()


def put(text: str, path: Path | None) -> None:
    """Write a report to a file, or to standard output. Raises Refused when the file cannot be written."""
    if path is None:
        sys.stdout.write(text)
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Refused(f"--output {path}: {error.strerror}; name a file that can be written") from None


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
        "unconverted": [{"currency": code, "cost_micros": micros} for code, micros in row.unconverted],
    }


def _savings(report: MonthReport) -> dict[str, Any]:
    names = [field.name for field in fields(Savings)]
    return {name: getattr(report.savings, name) if report.savings else None for name in names} | {
        "against": report.against or None
    }


def _rounded(hours: Fraction) -> float:
    return round(float(hours), 6)
