"""halve status"""

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


#: so many that are left alone are shown; --json shows all
POOLS = 4


def status(json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """Show deployments, machines and money spent this month.

    Example: halve status --json
    """
    from json import dumps

    from rich.console import Console

    from orchestrator.clock import SystemClock
    from orchestrator.home import home
    from orchestrator.ledger.store import open_ledger
    from orchestrator.status import status as look

    found = look(home(), open_ledger(home()), SystemClock().now())
    if json:
        print(dumps(found, ensure_ascii=False))
        return
    console = Console(highlight=False)
    daemon = found["daemon"]
    if daemon is None:
        console.print("no daemon is running; `halve up SPEC` starts one")
    else:
        ticked = f"last tick {_at(daemon['last_tick_at'])}" if daemon["last_tick_at"] else "no tick yet"
        _say(console, f"daemon: pid {daemon['pid']}, generation {daemon['generation']}, {ticked}")
        if daemon["tick_errors"]:
            count = f"{daemon['tick_errors']} tick{'s' * (daemon['tick_errors'] != 1)} failed"
            _say(console, f"{count}, the last: {daemon['last_error']}", 2)
    if found["backed_up_at"]:
        _say(console, f"ledger copied {_at(found['backed_up_at'])}")
    for one in found["deployments"]:
        _deployment(console, one)


def _deployment(console: "Console", one: dict[str, Any]) -> None:
    from orchestrator.budget_words import line

    spent, launches = one["spend"], one["launches"]
    state = {True: "open", False: "closed", None: "unknown"}[one["open"]]
    known = spent["month_micros"] is not None
    money = f"{spent['month_micros'] / 1e6:.2f} {spent['currency'] or ''}".strip() if known else "unknown"
    target = "not decided yet" if one["target"] is None else one["target"]
    console.print(f"\n[bold]{one['name']}[/] is {state}, target {target}, this month {money}")
    door = one["door"] or "not open"
    _say(console, f"door {door}" + (f", next change {_at(one['next_edge_at'])}" if one["next_edge_at"] else ""), 2)
    if one["reason"]:
        _say(console, one["reason"], 2)
    for budget in one["budgets"]:
        _say(console, line(budget, spent["currency"] or ""), 2)
    if launches["bound"] is not None:
        waits = f": waiting until {_at(launches['resumes_at'])}" if launches["resumes_at"] else ""
        _say(console, f"{launches['last_hour']} of at most {launches['bound']} launches in the last hour{waits}", 2)
    for pool in one["left_alone"][:POOLS]:
        _say(console, f"left alone: {pool['offer']}", 2)
        _say(console, f"until {_at(pool['until'])}, {pool['why']}", 4)
    if more := one["left_alone"][POOLS:]:
        _say(console, f"and {len(more)} more are left alone, the last until {_at(more[-1]['until'])}", 2)
    for machine in one["ends_unseen"]:
        booked = (
            f"it is booked until {_at(machine['booked_until'])}" if machine["booked_until"] else "nothing is booked"
        )
        _say(console, f"nobody saw the end of {machine['instance']}: {booked}, see its bill", 2)
    for host in one["hosts"]:
        _host(console, host)
    told = {pool["offer"] for pool in one["left_alone"]}
    for note in one["notes"]:
        if not ("left alone until" in note and note.partition(" ")[0] in told):  # said above, and why
            _say(console, f"note: {note}", 2)
    if one["instances"]:
        _machines(console, one["instances"])


def _host(console: "Console", host: dict[str, Any]) -> None:
    from orchestrator.owned import watts

    known = host["month_micros"] is not None
    money = f"{host['month_micros'] / 1e6:.2f} {host['currency'] or ''}".strip() if known else "unknown"
    name = "this machine" if host["provider"] == "local" else host["name"]
    power = f", power {watts(host['power'])}" if host["power"] else ""
    _say(console, f"{name} is {host['state']}, this month {money}{power}", 2)
    if host["why"]:
        _say(console, host["why"], 4)


def _machines(console: "Console", machines: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("instance", "provider", "gpu", "purchase", "status", ""):
        table.add_column(name, overflow="fold")
    for machine in machines:
        cells = [machine[key] for key in ("id", "provider", "gpu", "purchase", "status")]
        table.add_row(*(cell.replace("_", " ") for cell in cells), "\n".join(_notices(machine)))
    from rich.padding import Padding

    console.print(Padding(table, (0, 0, 0, 2), expand=False))


def _notices(machine: dict[str, Any]) -> list[str]:
    from orchestrator.status import LEAVING_RECOMMENDED, TAKEN_BACK

    told = (TAKEN_BACK, machine["reclaim_at"]), (LEAVING_RECOMMENDED, machine["rebalance_at"])
    return [words.format(at=_at(moment)) for words, moment in told if moment]


def _say(console: "Console", words: str, indent: int = 0) -> None:
    """A line as it is; on a terminal that is too narrow it goes on under its own beginning."""
    from rich.padding import Padding
    from rich.text import Text

    if console.is_terminal:
        console.print(Padding(Text(words), (0, 0, 0, indent), expand=False))
    else:
        print(" " * indent + words)


def _at(moment: str) -> str:
    """`2026-11-21T05:40:19Z` for people."""
    return moment.replace("T", " ").removesuffix("Z") + " UTC"
