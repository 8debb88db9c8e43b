"""halve windows"""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from datetime import date


def windows(
    spec_file: Path = typer.Argument(..., metavar="SPEC", help="The spec's file."),
    first: str = typer.Option(None, "--from", metavar="YYYY-MM-DD", help="First local date; default today."),
    last: str = typer.Option(None, "--to", metavar="YYYY-MM-DD", help="Last local date; default 13 days later."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON, in UTC."),
) -> None:
    """List when a spec is open.

    Dates are local and inclusive, and clip what is open over their first or last midnight. Pre-warm is not counted.

    Example: halve windows infra/examples/daytime-ocr.yaml --from 2026-10-01 --to 2026-10-12
    """
    from datetime import UTC, timedelta

    from orchestrator.clock import SystemClock
    from orchestrator.spec import load
    from policies.windows import bounds, spans

    spec = load(spec_file)
    zone = spec.timezone
    start = _date(first, "--from") if first is not None else SystemClock().now().astimezone(zone).date()
    end = _date(last, "--to") if last is not None else start + timedelta(days=13)
    if end < start:
        raise typer.BadParameter(f"{end} is before {start}", param_hint="--to")
    if start.year < 1970 or end.year > 2200 or end.year - start.year > 20:
        raise typer.BadParameter("at most 20 years, between 1970 and 2200", param_hint="--from, --to")
    schedule = spec.schedule_over(start, end)
    found = spans(schedule, start, end)
    notes = list(spec.calendar_notes(start.year, end.year))
    if found and bounds(schedule, found[-1].closes_at).open:
        notes.append(f"it stays open beyond {end}")

    if as_json:
        from json import dumps

        rows = [{"opens_at": span.opens_at, "closes_at": span.closes_at} for span in found]
        print(dumps(rows, indent=2, default=lambda at: at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")))
        for note in notes:
            typer.echo(note, err=True)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{spec.name}: open from {start} to {end}, {zone.key}", title_justify="left")
    for column in ("opens", "closes", "hours"):
        table.add_column(column, justify="right" if column == "hours" else "left")
    for span in found:
        opens_at, closes_at = (
            at.astimezone(zone).strftime("%a %Y-%m-%d %H:%M %z") for at in (span.opens_at, span.closes_at)
        )
        table.add_row(opens_at, closes_at, f"{(span.closes_at - span.opens_at) / timedelta(hours=1):.2f}")
    console = Console()
    console.print(table if found else f"{spec.name} is closed from {start} to {end} ({zone.key})")
    for note in notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def _date(said: str, option: str) -> "date":
    from datetime import date
    from time import strptime

    try:
        return date(*strptime(said, "%Y-%m-%d")[:3])
    except ValueError:
        raise typer.BadParameter(f"{said}: want YYYY-MM-DD, such as 2026-10-01", param_hint=option) from None
