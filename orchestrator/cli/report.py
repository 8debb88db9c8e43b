"""halve report"""

from pathlib import Path

import typer


def report(
    month: str | None = typer.Option(None, "--month", metavar="YYYY-MM", help="Which month. [default: this one]"),
    ledger: Path | None = typer.Option(None, "--ledger", metavar="FILE", help="Another ledger than HALVE_HOME's."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
    csv: bool = typer.Option(False, "--csv", help="Print CSV, a row for each deployment, GPU and terms."),
    output: Path | None = typer.Option(None, "--output", metavar="FILE", help="Write to a file instead."),
) -> None:
    """Print what a month cost and what was saved.

    The month is that of the deployments' time zone. A price that is not known is shown as unknown.

    Example: halve report --month 2026-10 --csv --output october.csv
    """
    from datetime import UTC, datetime

    from orchestrator import prices
    from orchestrator.home import home
    from orchestrator.ledger import reporting
    from orchestrator.ledger.store import open_file, open_ledger
    from orchestrator.reports import figures, formats, terminal
    from orchestrator.reports.month import is_month, of_ledger

    if json and csv:
        raise typer.BadParameter("one of --json and --csv, not both")
    if month is not None and not is_month(month):
        raise typer.BadParameter(f"{month}: want YYYY-MM, such as 2026-10", param_hint="--month")
    opened = open_ledger(home()) if ledger is None else open_file(ledger)
    try:
        prices.seed(opened)  # a baseline without a price of its own takes the published one
        found = of_ledger(opened, month, reporting.simulated_until(opened) or datetime.now(UTC))
    finally:
        opened.close()
    if json:
        formats.put(formats.json_text(found), output)
    elif csv:
        formats.put(formats.csv_text(found), output)
    elif output is not None:
        formats.put(terminal.text(found), output)
    else:
        terminal.show(found, figures.console())
