"""What closed charges add up to, summed where they lie: a month of a fleet on spot has tens of thousands of them."""

from datetime import datetime

import sqlalchemy as sa

from orchestrator.billing import MICROSECONDS_PER_HOUR
from orchestrator.ledger import tables as t

c = t.charges.c
ELAPSED = sa.type_coerce(c.ended_at, sa.BigInteger) - sa.type_coerce(c.started_at, sa.BigInteger)
#: floor(price x elapsed / 1 h), as `billing.accrued` has it: whole hours apart, so that no product leaves 64 bits
ACCRUED = c.price_per_hour_micros * sa.type_coerce(ELAPSED // MICROSECONDS_PER_HOUR, sa.BigInteger) + sa.type_coerce(
    c.price_per_hour_micros * (ELAPSED % MICROSECONDS_PER_HOUR) // MICROSECONDS_PER_HOUR, sa.BigInteger
)
START, END = sa.bindparam("start", type_=t.Moment), sa.bindparam("end", type_=t.Moment)
#: stretches of known price that lie in [start, end)
WHOLE = sa.and_(c.ended_at > START, c.started_at >= START, c.ended_at <= END, c.price_per_hour_micros.is_not(None))
OF_ONE = c.deployment == sa.bindparam("deployment")
CORRECTED = sa.and_(c.amount_micros.is_not(None), c.ended_at.is_(None), c.started_at >= START, c.started_at < END)
SUMS = sa.union_all(
    sa.select(c.currency, sa.func.sum(ACCRUED), sa.func.sum(ELAPSED)).where(OF_ONE, WHOLE).group_by(c.currency),
    sa.select(c.currency, sa.func.sum(c.amount_micros), sa.literal(0)).where(OF_ONE, CORRECTED).group_by(c.currency),
)


def closed(tx: sa.Connection, deployment: str, start: datetime, end: datetime) -> dict[str, tuple[int, int]]:
    """By currency: micro-units, and microseconds of machine time, of what ended or was corrected within [start, end).

    A charge that began before, or ends after, is not among them, nor is one whose price is unknown.
    """
    found: dict[str, tuple[int, int]] = {}
    for currency, micros, time in tx.execute(SUMS, {"deployment": deployment, "start": start, "end": end}):
        before = found.get(currency, (0, 0))
        found[currency] = (before[0] + int(micros), before[1] + int(time))
    return found
