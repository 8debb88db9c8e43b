"""halve override"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum

import typer


class Held(StrEnum):
    """What a deployment can be held at."""

    open = "open"
    closed = "closed"
    none = "none"


def override(
    name: str = typer.Argument(metavar="NAME", help="The deployment's name."),
    state: Held = typer.Argument(metavar="open|closed|none", help="none lifts an override."),
    until: str = typer.Option(
        "", "--until", metavar="TIME", help="HH:MM, or YYYY-MM-DD HH:MM, in the schedule's zone."
    ),
) -> None:
    """Hold a deployment open or closed until a time.

    Example: halve override ocr open --until 22:30
    """
    from orchestrator import control, spec
    from orchestrator.clock import SystemClock
    from orchestrator.errors import Refused
    from orchestrator.home import home
    from orchestrator.ledger import deployments
    from orchestrator.ledger.store import open_ledger

    ledger = open_ledger(home())
    row = control.find(ledger, name)
    now = SystemClock().now()
    if state is Held.none:
        with ledger.write() as tx:
            deployments.override(tx, name, None, None, now)
        print(f"{name} follows its schedule again")
        return
    if not until:
        raise Refused("override: say until when, such as --until 22:30")
    zone = spec.parse(row.spec, row.source).schedule_for(now).zone
    ends_at = moment(until, now.astimezone(zone))
    if ends_at <= now:
        raise Refused(f"override: --until {until} has passed already")
    with ledger.write() as tx:
        deployments.override(tx, name, state.value, ends_at, now)
    print(f"{name} is held {state.value} until {ends_at:%Y-%m-%d %H:%M} UTC")


def moment(text: str, local_now: datetime) -> datetime:
    """`22:30` (the next one), or `2026-11-21 22:30`, in the zone of `local_now`; as UTC. Raises Refused."""
    from orchestrator.errors import Refused

    try:
        if len(text) <= 5:
            wanted = local_now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
            hour, minute = (int(part) for part in text.split(":"))
            wanted = wanted.replace(hour=hour, minute=minute)
            wanted += timedelta(days=wanted <= local_now)
        else:
            wanted = datetime.fromisoformat(text)
            wanted = wanted if wanted.tzinfo else wanted.replace(tzinfo=local_now.tzinfo)
    except ValueError:
        raise Refused(f'override: --until {text}: want HH:MM, or "YYYY-MM-DD HH:MM"') from None
    return wanted.astimezone(UTC)
