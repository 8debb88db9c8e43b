"""halve why"""

from typing import TYPE_CHECKING, Any

import typer

from orchestrator.cli.counting import countable

if TYPE_CHECKING:
    from orchestrator.decisions import Grounds
    from policies.selection import Ranked


def why(
    name: str = typer.Argument(metavar="DEPLOYMENT", help="The deployment's name."),
    last: int = typer.Option(5, "--last", min=1, max=1000, help="How many decisions that did something."),
    at: str = typer.Option(
        "", "--at", metavar="TIME", help='What held then: "YYYY-MM-DD HH:MM", in the schedule\'s zone.'
    ),
    tick: int | None = typer.Option(
        None, "--tick", metavar="N", callback=countable, help="One decision, by its number."
    ),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Explain the last decision about a deployment, and the last ones that did something.

    With --at, those up to then; with --tick, one. The newest that did something is shown with what it was taken by:
    the load, the money spent, the best machine and the next best, and what that would have cost. Each is made again
    from its snapshot; where today's spec decides otherwise, it says so.

    Example: halve why ocr --at "2026-10-14 09:30"
    """
    from json import dumps

    from rich.console import Console

    from orchestrator import decisions
    from orchestrator.clock import SystemClock
    from orchestrator.home import home
    from orchestrator.ledger.store import open_ledger

    ledger, now = open_ledger(home()), SystemClock().now()
    if tick is not None:
        shown = [decisions.one(home(), ledger, name, tick)]
    else:
        until = decisions.moment(ledger, name, at, now) if at else now
        shown = decisions.newest(home(), ledger, name, until, last)
    acted = next((one for one in shown if one["actions"]), None)
    found = None if acted is None else decisions.grounds(home(), ledger, name, acted["tick"])
    if acted is not None and found is not None:
        acted["inputs"], acted["choice"], acted["runner_up"] = decisions.compared(found)
    if json:
        print(dumps(shown, ensure_ascii=False))
        return
    console = Console(highlight=False)
    if not shown:
        console.print("nothing has been decided yet: no daemon has ticked" if not at else "nothing was decided by then")
    for one in shown:
        console.print(f"[bold]{one['at']}[/] tick {one['tick']}: target {one['target']}", end=" ")
        console.print(f"({one['reason']})", markup=False)
        for line in _lines(one, found):
            console.print(f"  {line}", markup=False)


def _lines(one: dict[str, Any], found: "Grounds | None") -> list[str]:
    lines = []
    for action in one["actions"]:
        what = action.get("instance") or action.get("offer")
        lines.append(f"{action['kind']} {what}: {action['reason']}")
    lines += [f"note: {note}" for note in one["notes"]]
    lines += one.get("pools", ())
    if "inputs" in one and found is not None:
        lines += [f"seen: {one['inputs']}", *_choice(found, one["target"])]
    return lines + [f"made again today: {line}" for line in one["again"] or ()]


def _choice(found: "Grounds", target: int) -> list[str]:
    """The best machine of then and the next best, and what as many of that would have cost an hour."""
    if not found.ranked:
        return []
    best, other = found.ranked[0], found.runner_up
    if other is None:
        lines = [f"best: {_named(found, best)}; no other GPU or terms were on offer"]
    else:
        lines = [f"best: {_named(found, best)}", f"next best: {_named(found, other)}"]
        mine, others = found.hourly_micros(best), found.hourly_micros(other)
        if mine is not None and others is not None and target:
            costs = f"{target * others / 1e6:,.2f} instead of {target * mine / 1e6:,.2f} {found.currency} an hour"
            lines[-1] += f"; for {target}, {costs}"
    codes = {one.offer.currency for one in (best, other) if one is not None}
    return lines + [words for code, words in found.converted.items() if code in codes]


def _named(found: "Grounds", row: "Ranked") -> str:
    offer, each = row.offer, row.cost_per_1000_micros
    price = offer.price_per_hour_micros
    words = "price unknown" if price is None else f"{price / 1e6:,.4f} {offer.currency} an hour"
    if each is not None:
        words += f", {each / 1e6:,.4f} {found.currency} per 1,000 images"
    return f"{offer.gpu} ({offer.provider}, {offer.purchase.value.replace('_', '-')}): {words}"
