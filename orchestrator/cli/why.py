"""halve why"""

import typer


def why(
    name: str = typer.Argument(metavar="DEPLOYMENT", help="The deployment's name."),
    last: int = typer.Option(5, "--last", min=1, max=1000, help="How many decisions that did something."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Explain the last decision about a deployment, and the last ones that did something.

    Example: halve why ocr --last 3
    """
    from json import dumps

    from rich.console import Console

    from orchestrator import control
    from orchestrator.clock import SystemClock
    from orchestrator.home import home
    from orchestrator.ledger import fleet
    from orchestrator.ledger.store import open_ledger
    from orchestrator.status import iso

    ledger = open_ledger(home())
    control.find(ledger, name)
    with ledger.read() as tx:
        newest = fleet.last_tick(tx, name)
        acted = fleet.ticks(tx, name, until=SystemClock().now(), acted=True, limit=last)
    rows = [*([newest] if newest is not None and newest.snapshot is None else []), *acted]
    shown = [
        {"tick": row.id, "at": iso(row.at), "target": row.target, "reason": row.reason, **row.plan} for row in rows
    ]
    if json:
        print(dumps(shown, ensure_ascii=False))
        return
    console = Console(highlight=False)
    if not shown:
        console.print("nothing has been decided yet: no daemon has ticked")
    for one in shown:
        console.print(f"[bold]{one['at']}[/] tick {one['tick']}: target {one['target']}", end=" ")
        console.print(f"({one['reason']})", markup=False)
        for action in one["actions"]:
            what = action.get("instance") or action.get("offer")
            console.print(f"  {action['kind']} {what}: {action['reason']}", markup=False)
        for note in one["notes"]:
            console.print(f"  note: {note}", markup=False)
