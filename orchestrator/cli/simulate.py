"""halve simulate"""

from pathlib import Path

import typer


def simulate(
    path: Path = typer.Argument(metavar="SPEC", help="The deployment's YAML file."),
    month: str = typer.Option(..., "--month", metavar="YYYY-MM", help="The month to live through."),
    ledger: Path = typer.Option(..., "--ledger", metavar="FILE", help="Where the simulated ledger is written."),
    seed: int = typer.Option(1, "--seed", help="Of the market and of the demand."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Run the loop over a simulated month, with every provider replaced by a market at the spec's prices.

    Only FILE is written, marked as simulated; `halve report --ledger FILE` reads it.

    Example: halve simulate infra/examples/spot-fleet.yaml --month 2026-10 --ledger october.db
    """
    from dataclasses import asdict
    from json import dumps

    from orchestrator import spec
    from orchestrator.simulation.month import simulate as run

    wanted = spec.load(path)
    found = run(wanted, path.read_text(encoding="utf-8"), str(path), month, ledger, seed)
    if json:
        print(dumps(asdict(found)))
        return
    print(
        f"simulated {month}: {found.ticks} ticks, {found.launches} launches, {found.preemptions} preemptions, "
        f"{found.images} images read, {found.refused} refused"
    )
    print(f"read it with: halve report --month {month} --ledger {ledger}")
