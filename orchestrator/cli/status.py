"""halve status"""

import typer


def status(json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """Show deployments, machines and money spent this month.

    Example: halve status --json
    """
    from json import dumps

    from rich.console import Console
    from rich.table import Table

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
        line = f"daemon: pid {daemon['pid']}, generation {daemon['generation']}, last tick {daemon['last_tick_at']}"
        console.print(line, markup=False)
        if daemon["tick_errors"]:
            console.print(f"{daemon['tick_errors']} ticks failed, the last: {daemon['last_error']}", markup=False)
    for one in found["deployments"]:
        spent = one["spend"]
        money = (
            "unknown"
            if spent["month_micros"] is None
            else f"{spent['month_micros'] / 1e6:.2f} {spent['currency'] or ''}"
        )
        state = "open" if one["open"] else "closed"
        console.print(f"\n[bold]{one['name']}[/] is {state}, target {one['target']}, this month {money.strip()}")
        console.print(f"  door {one['door']}, next change {one['next_edge_at']}", markup=False)
        if one["reason"]:
            console.print(f"  {one['reason']}", markup=False)
        for note in one["notes"]:
            console.print(f"  note: {note}", markup=False)
        if one["instances"]:
            table = Table(box=None, padding=(0, 2))
            for name in ("instance", "provider", "gpu", "purchase", "status", "reclaim at"):
                table.add_column(name)
            for row in one["instances"]:
                table.add_row(
                    *(str(row[k] or "") for k in ("id", "provider", "gpu", "purchase", "status", "reclaim_at"))
                )
            console.print(table)
