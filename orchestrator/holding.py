"""Holding a deployment open or closed until a time: what `halve override` and the dashboard do."""

from datetime import UTC, datetime, timedelta

from orchestrator import control, spec
from orchestrator.errors import Refused
from orchestrator.ledger import deployments
from orchestrator.ledger.store import Ledger

STATES = ("open", "closed")
#: what is to last longer is a schedule
LONGEST = timedelta(days=366)


def hold(ledger: Ledger, name: str, state: str, until: str, now: datetime) -> datetime:
    """Hold it at a state of STATES until a moment as people write it; returns that moment. Raises Refused."""
    row = control.find(ledger, name)
    if not until:
        raise Refused("override: say until when, such as --until 22:30")
    zone = spec.parse(row.spec, row.source).schedule_for(now).zone
    ends_at = moment(until, now.astimezone(zone))
    if ends_at <= now:
        raise Refused(f"override: --until {until} has passed already")
    if ends_at - now > LONGEST:
        raise Refused(f"override: --until {until} is more than a year away: change the schedule in the spec instead")
    with ledger.write() as tx:
        deployments.override(tx, name, state, ends_at, now)
    return ends_at


def lift(ledger: Ledger, name: str, now: datetime) -> None:
    """Let it follow its schedule again. Raises Refused when there is none of that name."""
    control.find(ledger, name)
    with ledger.write() as tx:
        deployments.override(tx, name, None, None, now)


def moment(text: str, local_now: datetime) -> datetime:
    """`22:30` (the next one), or `2026-11-21 22:30`, in the zone of `local_now`; as UTC. Raises Refused."""
    try:
        if len(text) <= 5:
            wanted = local_now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
            hour, minute = (int(part) for part in text.split(":"))
            wanted = wanted.replace(hour=hour, minute=minute)
            wanted += timedelta(days=wanted <= local_now)
        else:
            wanted = datetime.fromisoformat(text)
            wanted = wanted if wanted.tzinfo else wanted.replace(tzinfo=local_now.tzinfo)
        return wanted.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Refused(f'override: --until {text}: want HH:MM, or "YYYY-MM-DD HH:MM"') from None
