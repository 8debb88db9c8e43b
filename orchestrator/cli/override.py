"""halve override"""

from enum import StrEnum

import typer


class Held(StrEnum):
    """What a deployment can be held at."""

    open = "open"
    closed = "closed"
    none = "none"


def override(
    name: str = typer.Argument(metavar="NAME", help="The deployment's name."),
    state: Held = typer.Argument(metavar="STATE", help="open, closed, or none: it lifts an override."),
    until: str = typer.Option(
        "", "--until", metavar="TIME", help="HH:MM, or YYYY-MM-DD HH:MM, in the schedule's zone."
    ),
) -> None:
    """Hold a deployment open or closed until a time.

    Example: halve override ocr open --until 22:30
    """
    from orchestrator import holding
    from orchestrator.clock import SystemClock
    from orchestrator.home import home
    from orchestrator.ledger.store import open_ledger

    ledger, now = open_ledger(home()), SystemClock().now()
    if state is Held.none:
        holding.lift(ledger, name, now)
        print(f"{name} follows its schedule again")
        return
    ends_at = holding.hold(ledger, name, state.value, until, now)
    print(f"{name} is held {state.value} until {ends_at:%Y-%m-%d %H:%M} UTC")
