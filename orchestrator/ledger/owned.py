"""What machines of one's own cost and read: the charges of their time, and their images, machine by machine."""

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from orchestrator.billing import Charge
from orchestrator.ledger import tables as t
from orchestrator.ledger.charges import charge_of
from policies.snapshot import Purchase


class Box(NamedTuple):
    """A machine of one's own, as a deployment pays for it: its provider, its host (a zone is one machine), its GPU."""

    deployment: str
    provider: str
    host: str
    gpu: str


#: from the few machines to their charges: each costs one step in the index, however many others the ledger has
OF_BOX = (t.instances.c.deployment, t.instances.c.provider, t.instances.c.zone, t.instances.c.gpu)
OWNED = t.instances.c.purchase == str(Purchase.OWNED)
BOOKED = (
    sa.select(*(column.label(f"box_{column.name}") for column in OF_BOX), t.charges)
    .join(t.charges, t.charges.c.instance_id == t.instances.c.id)
    .where(
        OWNED,
        # any arithmetic keeps a database from going the other way, through every charge of that time
        sa.type_coerce(t.charges.c.started_at, sa.BigInteger) + 0 < sa.bindparam("end", type_=t.Moment),
        sa.or_(t.charges.c.ended_at.is_(None), t.charges.c.ended_at > sa.bindparam("start")),
    )
    .order_by(*OF_BOX, t.charges.c.id)
)
READ = (
    sa.select(*OF_BOX, sa.func.sum(t.loads.c.images).label("images"))
    .join(t.loads, t.loads.c.instance_id == t.instances.c.id)
    .where(OWNED, t.loads.c.at >= sa.bindparam("start"), t.loads.c.at < sa.bindparam("end"))
    .group_by(*OF_BOX)
)


def booked(tx: sa.Connection, start: datetime, end: datetime) -> dict[Box, list[Charge]]:
    """What touches [start, end)."""
    found: dict[Box, list[Charge]] = {}
    for row in tx.execute(BOOKED, {"start": start, "end": end}):
        found.setdefault(Box(*row[: len(OF_BOX)]), []).append(charge_of(row, row.ended_at))
    return found


def images(tx: sa.Connection, start: datetime, end: datetime) -> dict[Box, int]:
    """What was read in the minutes of [start, end)."""
    rows = tx.execute(READ, {"start": start, "end": end})
    return {Box(*row[: len(OF_BOX)]): int(row.images) for row in rows if row.images}
