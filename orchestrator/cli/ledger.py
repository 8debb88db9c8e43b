"""halve ledger"""

from pathlib import Path

import typer

app = typer.Typer(help="Check the ledger.", no_args_is_help=True, rich_markup_mode=None, add_completion=False)


@app.callback()
def root() -> None:
    """Check the ledger."""


@app.command()
def check(
    ledger: Path | None = typer.Option(None, "--ledger", metavar="FILE", help="Another ledger than HALVE_HOME's."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Ask the ledger everything that must be true of it. Exit code 1 when something is not.

    Example: halve ledger check
    """
    from json import dumps

    from orchestrator.home import home
    from orchestrator.ledger.checks import check as ask
    from orchestrator.ledger.store import open_file, open_ledger

    opened = open_ledger(home()) if ledger is None else open_file(ledger)
    with opened.read() as tx:
        found = ask(tx)
    if json:
        print(dumps(found, ensure_ascii=False))
    else:
        for name, troubles in found.items():
            print(f"{'ok  ' if not troubles else 'FAIL'}  {name.replace('_', ' ')}")
            for trouble in troubles:
                print(f"      {trouble}")
    raise SystemExit(1 if any(found.values()) else 0)
