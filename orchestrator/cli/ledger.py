"""halve ledger"""

from pathlib import Path

import typer

app = typer.Typer(
    help="Check the ledger, copy it, and go back to a copy.\n\nExample: halve ledger check",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)


@app.callback()
def root() -> None:
    """Check the ledger, copy it, and go back to a copy.

    Example: halve ledger check
    """


@app.command()
def check(
    ledger: Path | None = typer.Option(None, "--ledger", metavar="FILE", help="Another ledger than HALVE_HOME's."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Ask the ledger everything that must be true of it. Exit code 1 when something is not.

    Example: halve ledger check
    """
    from json import dumps

    from orchestrator.clock import SystemClock
    from orchestrator.home import home
    from orchestrator.ledger.checks import check as ask
    from orchestrator.ledger.store import open_file, open_ledger
    from orchestrator.standing import findings

    opened = open_ledger(home()) if ledger is None else open_file(ledger)
    with opened.read() as tx:
        found = ask(tx)
    if ledger is None:  # beside another one there is no door, and nobody keeps its deployments true
        found |= findings(home(), opened, SystemClock().now())
    if json:
        print(dumps(found, ensure_ascii=False))
    else:
        for name, troubles in found.items():
            print(f"{'ok  ' if not troubles else 'FAIL'}  {name.replace('_', ' ')}")
            for trouble in troubles:
                print(f"      {trouble}")
    raise SystemExit(1 if any(found.values()) else 0)


@app.command()
def backup(
    file: Path | None = typer.Argument(None, metavar="[FILE]", help="Where to; by default HALVE_HOME/backups."),
) -> None:
    """Copy the ledger as it is now, while everything goes on. The daemon does so once a day.

    Example: halve ledger backup /mnt/safe/halve.db
    """
    from orchestrator.clock import SystemClock
    from orchestrator.errors import Refused
    from orchestrator.home import home
    from orchestrator.ledger import backup as copies

    present = copies.place(home())
    if not present.is_file():
        raise Refused(f"there is no ledger in {home()} yet")
    if file is None:
        file = copies.keep(present, home(), SystemClock().now())
    elif file.exists():
        raise Refused(f"{file} is there already; name another file")
    else:
        copies.copy(present, file)
    print(f"copied to {file}; keep {home() / 'installation.key'} beside it")


@app.command()
def restore(
    file: Path = typer.Argument(metavar="FILE", help="A copy of this installation's ledger."),
) -> None:
    """Go back to a copy of the ledger. No daemon may be running; the ledger of before is kept.

    Example: halve ledger restore ~/.halve/backups/halve-2026-11-20T030000Z.db
    """
    from orchestrator.clock import SystemClock
    from orchestrator.home import home
    from orchestrator.recovery import restore as put_back

    kept = put_back(home(), file, SystemClock().now())
    print(f"the ledger is that of {file}" + (f"; the one of before is kept as {kept}" if kept else ""))
    print(
        "next: `halve daemon`, or `halve up`. Machines launched since then are adopted by their tags at its first tick."
    )
