"""What machines of one's own cost: the charges of their time, by machine."""

from datetime import datetime

import sqlalchemy as sa

from orchestrator.billing import Charge
from orchestrator.ledger import tables as t
from orchestrator.ledger.charges import charge_of
from policies.snapshot import Purchase

BOOKED = (
    sa.select(t.charges, t.instances.c.provider, t.instances.c.zone)
    .join(t.instances, t.charges.c.instance_id == t.instances.c.id)
    .where(
        t.charges.c.deployment == sa.bindparam("deployment"),
        t.charges.c.purchase == str(Purchase.OWNED),
        t.charges.c.started_at < sa.bindparam("end"),
        sa.or_(t.charges.c.ended_at.is_(None), t.charges.c.ended_at > sa.bindparam("start")),
    )
    .order_by(t.charges.c.id)
)


def booked(tx: sa.Connection, deployment: str, start: datetime, end: datetime) -> dict[tuple[str, str], list[Charge]]:
    """What touches [start, end), by provider and zone: a zone is one machine."""
    found: dict[tuple[str, str], list[Charge]] = {}
    for row in tx.execute(BOOKED, {"deployment": deployment, "start": start, "end": end}):
        found.setdefault((row.provider, row.zone), []).append(charge_of(row, row.ended_at))
    return found
