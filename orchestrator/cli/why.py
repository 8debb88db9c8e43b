"""halve why"""

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

    from orchestrator import decisions
    from orchestrator.clock import SystemClock
    from orchestrator.home import home
    from orchestrator.ledger.store import open_ledger

    shown = decisions.newest(home(), open_ledger(home()), name, SystemClock().now(), last)
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
