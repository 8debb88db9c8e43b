"""halve report"""

import sys
from pathlib import Path

import typer


def report(
    month: str | None = typer.Option(None, "--month", metavar="YYYY-MM", help="Which month. [default: this one]"),
    ledger: Path | None = typer.Option(None, "--ledger", metavar="FILE", help="Another ledger than HALVE_HOME's."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
    csv: bool = typer.Option(False, "--csv", help="Print CSV, a row for each deployment, GPU and terms."),
    html: bool = typer.Option(False, "--html", help="Print one HTML page with plots, which loads nothing."),
    focus: str | None = typer.Option(None, "--focus", metavar="1.4", help="Print the charges as FOCUS cost and usage."),
    lang: str = typer.Option("en", "--lang", help="en or zh: of the page, the HTML and the CSV."),
    output: Path | None = typer.Option(
        None, "--output", metavar="FILE", help="Write to a file instead; FOCUS as Parquet where it ends so."
    ),
) -> None:
    """Print what a month cost and what was saved.

    The month is that of the deployments' time zone. A price that is not known is shown as unknown.

    Example: halve report --month 2026-10 --html --lang zh --output october.html
    """
    from datetime import UTC, datetime

    from orchestrator import prices
    from orchestrator.home import home
    from orchestrator.ledger import reporting
    from orchestrator.ledger.store import open_file, open_ledger
    from orchestrator.reports import figures, formats, page, terminal
    from orchestrator.reports import focus as export
    from orchestrator.reports.frame import is_month
    from orchestrator.reports.month import of_ledger
    from orchestrator.reports.words import LANGUAGES, Words

    if json + csv + html + (focus is not None) > 1:
        raise typer.BadParameter("one of --json, --csv, --html and --focus")
    if month is not None and not is_month(month):
        raise typer.BadParameter(f"{month}: want YYYY-MM, such as 2026-10", param_hint="--month")
    if lang not in LANGUAGES:
        raise typer.BadParameter(f"{lang}: want en or zh", param_hint="--lang")
    if focus not in (None, export.VERSION):
        raise typer.BadParameter(f"{focus}: want {export.VERSION}", param_hint="--focus")
    opened = open_ledger(home()) if ledger is None else open_file(ledger)
    try:
        prices.seed(opened)  # a baseline without a price of its own takes the published one
        now = reporting.simulated_until(opened) or datetime.now(UTC)
        if focus is not None:
            export.write(opened, month, now, output)
            return
        found = of_ledger(opened, month, now)
    finally:
        opened.close()
    if json:
        formats.put(formats.json_text(found), output)
    elif csv:
        formats.put(formats.csv_text(found, lang), output)
        if not found.rows:
            sys.stderr.write(f"{Words(lang)(found.notes[0])}\n")
    elif html:
        formats.put(page.html_text(found, lang), output)
    elif output is not None:
        formats.put(terminal.text(found, lang), output)
    else:
        terminal.show(found, figures.console(), lang)
