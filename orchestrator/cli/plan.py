"""halve plan"""

import sys
from pathlib import Path

import typer


def plan(
    path: Path = typer.Argument(metavar="SPEC", help="The deployment's YAML file."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Show which machines a spec would take and what they cost, hourly and at this month's windows.

    Example: halve plan infra/examples/daytime-ocr.yaml
    """
    from json import dumps

    from orchestrator import prices, spec
    from orchestrator.clock import SystemClock
    from orchestrator.home import home
    from orchestrator.ledger.store import open_ledger
    from orchestrator.planning import plan as look
    from orchestrator.reports.figures import percent

    wanted = spec.load(path)
    ledger = open_ledger(home())
    prices.seed(ledger)
    now = SystemClock().now()
    found = look(wanted, home(), ledger, now)
    for note in wanted.calendar_notes(now.year, now.year):
        print(f"note: {note}", file=sys.stderr)
    if json:
        print(dumps(found.to_json(), ensure_ascii=False))
        return

    def money(micros: int | None) -> str:
        return "unknown" if micros is None else f"{micros / 1e6:,.2f} {found.currency}"

    if found.choice is None:
        print(f"{wanted.name}: {found.reason}")
        raise SystemExit(1)
    print(f"{wanted.name} would run on {found.choice}")
    print(f"  why        {found.reason}")
    print(f"  per hour   {money(found.hourly_micros)}")
    print(f"  per month  {money(found.monthly_micros)} at {float(found.open_hours):.1f} open hours this month")
    if found.budget_micros and found.monthly_micros is not None:
        share = percent(found.monthly_micros, found.budget_micros)
        print(f"  budget     {money(found.budget_micros)} a month, of which this is {share}")
    if found.usual is not None:
        low, high = found.usual.low_micros, found.usual.high_micros
        print(f"  usually    {money(low)} to {money(high)} an hour: 8 of 10 hours of the last {found.usual.days} days;")
        print(f"             {money(round(low * found.open_hours))} to {money(round(high * found.open_hours))} a month")
    if found.saved_micros is not None:
        change = f"{money(abs(found.saved_micros))} an hour {'less' if found.saved_micros >= 0 else 'more'}"
        print(f"  now        {money(found.running_micros)} per hour is paid for what runs; this costs {change}")
    if found.runner_up is not None:
        other = found.runner_up
        print(f"  next best  {other}: {other.reason};")
        print(f"             {money(other.hourly_micros)} per hour, {money(found.monthly(other))} per month")
    for words in found.converted:
        print(f"  {words}")
