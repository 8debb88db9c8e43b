"""halve why"""

from typing import Any

import typer


def why(
    name: str = typer.Argument(metavar="DEPLOYMENT", help="The deployment's name."),
    last: int = typer.Option(5, "--last", min=1, max=1000, help="How many decisions that did something."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Explain the last decision about a deployment, and the last ones that did something.

    Each of those is made again from its snapshot; where today's spec decides otherwise, it says so.

    Example: halve why ocr --last 3
    """
    from json import dumps

    from rich.console import Console

    from orchestrator import control, replay, spec
    from orchestrator.clock import SystemClock
    from orchestrator.deployment import wishes_of
    from orchestrator.home import home
    from orchestrator.ledger import beliefs, ticks
    from orchestrator.ledger.store import open_ledger
    from orchestrator.status import iso
    from policies import spot

    ledger = open_ledger(home())
    row = control.find(ledger, name)
    wishes = wishes_of(spec.parse(row.spec, row.source), row, home())
    now = SystemClock().now()
    with ledger.read() as tx:
        newest = ticks.newest(tx, name, until=now, acted=False, limit=1)
        acted = ticks.newest(tx, name, until=now, acted=True, limit=last)
        pools = spot.story(beliefs.known(tx, name).get("placement"), now)
    shown: list[dict[str, Any]] = [
        {
            "tick": one.id,
            "at": iso(one.at),
            "target": one.target,
            "reason": one.reason,
            **one.plan,
            "again": None
            if one.snapshot is None
            else list(replay.differences(replay.again(one.snapshot, wishes), one.plan)),
        }
        for one in [*(one for one in newest if one.snapshot is None), *acted]
    ]
    if shown:
        shown[0]["pools"] = list(pools)
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
        for line in one.get("pools", ()):
            console.print(f"  {line}", markup=False)
        for line in one["again"] or ():
            console.print(f"  made again today: {line}", markup=False)
