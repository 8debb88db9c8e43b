"""halve prices"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from orchestrator.ledger.quotes import Quote
    from orchestrator.pricelists import Refreshed

app = typer.Typer(
    help="Show prices in force, their sources and ages; ask for new ones; take in lists.\n\nExample: halve prices",
    rich_markup_mode=None,
    add_completion=False,
)

LEDGER = typer.Option(None, "--ledger", metavar="FILE", help="Another ledger than HALVE_HOME's.")
JSON = typer.Option(False, "--json", help="Print JSON.")


@app.callback(invoke_without_command=True)
def root(ctx: typer.Context, ledger: Path | None = LEDGER, json: bool = JSON) -> None:
    """Show prices in force, their sources and ages; ask for new ones; take in lists.

    Example: halve prices
    """
    if ctx.invoked_subcommand is None:
        from orchestrator.ledger import quotes

        opened, now = _opened(ledger)
        with opened.read() as tx:
            _show(quotes.in_force(tx, now), now, json)


@app.command()
def history(
    gpu: str | None = typer.Option(None, "--gpu", help="Of this GPU alone."),
    ledger: Path | None = LEDGER,
    json: bool = JSON,
) -> None:
    """Show every price that was ever in force, oldest first. Nothing of it is ever overwritten.

    Example: halve prices history --gpu 'RTX 3060'
    """
    from orchestrator.ledger import quotes
    from policies.throughput import gpu_key

    opened, now = _opened(ledger)
    with opened.read() as tx:
        told = quotes.history(tx)
    found = [one for one in told if gpu is None or gpu_key(one.gpu) == gpu_key(gpu)]
    if not found and not json:
        known = ", ".join(sorted({one.gpu for one in told}))
        print(f"no price of {gpu} is known; there are prices of: {known}")
        return
    _show(found, now, json)


@app.command()
def refresh(json: bool = JSON) -> None:
    """Ask the providers of all deployments for their prices. Exit code 1 when one does not answer.

    What it said last stays in force then, and its age is shown.

    Example: halve prices refresh
    """
    from dataclasses import asdict
    from json import dumps

    from orchestrator import pricelists, spec
    from orchestrator.clock import SystemClock
    from orchestrator.deployment import open_providers
    from orchestrator.errors import Refused
    from orchestrator.home import home
    from orchestrator.ledger import deployments
    from orchestrator.ledger.store import open_ledger

    ledger, clock = open_ledger(home()), SystemClock()
    with ledger.read() as tx:
        rows = [row for row in deployments.known(tx) if row.wanted == "up"]
    if not rows:
        raise Refused("no deployment is up, so there is no provider to ask; `halve prices import FILE` takes a list")
    found: list[Refreshed] = []
    for row in rows:
        opened = open_providers(spec.parse(row.spec, row.source), home(), clock)
        found += pricelists.refresh(ledger, opened, clock.now())
    if json:
        print(dumps([asdict(one) for one in found], ensure_ascii=False))
    else:
        for one in found:
            said = (
                f"failed, the last prices stay: {one.error}" if one.error else f"{one.offers} offers, {one.moved} moved"
            )
            print(f"{one.provider}: {said}")
    raise SystemExit(1 if any(one.error for one in found) else 0)


@app.command("import")
def import_(
    file: Path = typer.Argument(metavar="FILE", help="CSV; `halve prices export` shows its columns."),
    ledger: Path | None = LEDGER,
) -> None:
    """Take in a price list. All of it is taken, or nothing.

    Columns: gpu, price_per_hour, currency, source, since; and, if you like, provider, purchase (on_demand or spot),
    zone, instance_type. A price holds from `since` until the next one.

    Example: halve prices import rentals.csv
    """
    from orchestrator import pricelists
    from orchestrator.errors import Refused

    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"{file}: not UTF-8 text (at byte {error.start + 1}); save it as CSV in UTF-8") from None
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}; name a CSV file, `halve prices export` shows its columns") from None
    opened, now = _opened(ledger)
    listed, left_out = pricelists.read(text, str(file), now)
    news = pricelists.import_list(opened, listed, now)
    print(f"{len(listed)} prices read, {news} were news")
    if left_out:
        print(f"{left_out} left out: what local, ssh and simulated machines cost is what their spec says")


@app.command()
def export(
    file: Path | None = typer.Argument(None, metavar="[FILE]", help="Where to. [default: standard output]"),
    ledger: Path | None = LEDGER,
) -> None:
    """Write the whole price history as a list that `import` takes.

    Example: halve prices export prices.csv
    """
    from orchestrator import pricelists
    from orchestrator.ledger import quotes
    from orchestrator.reports.formats import put

    opened, _ = _opened(ledger)
    with opened.read() as tx:
        put(pricelists.to_csv(quotes.history(tx)), file, "")


def _opened(path: Path | None) -> Any:
    from datetime import UTC, datetime

    from orchestrator import prices
    from orchestrator.home import home
    from orchestrator.ledger import reporting
    from orchestrator.ledger.store import open_file, open_ledger

    ledger = open_ledger(home()) if path is None else open_file(path)
    prices.seed(ledger)
    return ledger, reporting.simulated_until(ledger) or datetime.now(UTC)


def _show(listed: "Iterable[Quote]", now: "datetime", json: bool) -> None:
    from json import dumps

    from orchestrator.reports.figures import age, console, money, table
    from orchestrator.reports.words import Words
    from orchestrator.status import iso

    if json:
        shown = [
            {
                "provider": one.provider,
                "gpu": one.gpu,
                "purchase": one.purchase.value,
                "zone": one.zone,
                "price_per_hour_micros": one.price_per_hour_micros,
                "currency": one.currency or None,
                "source": one.source,
                "since": iso(one.effective_at) if one.is_dated else None,
                "recorded_at": iso(one.recorded_at),
                "age_seconds": int((now - one.recorded_at).total_seconds()) if one.is_dated else None,
            }
            for one in listed
        ]
        print(dumps(shown, ensure_ascii=False))
        return
    columns = table("GPU", "provider", "terms", "zone", "per hour", "", "source", "since", "age", title="")
    for one in listed:
        since, old = "undated", "unknown"
        if one.is_dated:
            since, old = f"{one.effective_at:%Y-%m-%d %H:%M}", age(now - one.recorded_at, Words())
        kind = one.gpu, one.provider, one.purchase.value.replace("_", "-"), one.zone
        price = money(one.price_per_hour_micros, 4), one.currency
        columns.add_row(*kind, *price, one.source, since, old)
    for column in columns.columns[1:4]:
        column.justify = "left"
    console().print(columns)
