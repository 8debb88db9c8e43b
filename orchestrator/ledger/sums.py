"""What charges add up to in a period. What is closed is summed where it lies: a month of a fleet on spot has tens of
thousands of charges.
"""

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from orchestrator.billing import MICROSECONDS_PER_HOUR, Charge
from orchestrator.ledger import tables as t
from orchestrator.ledger.charges import charge_of

#: of an hour in seconds, and of a second in microseconds
SECONDS, MICROSECONDS = sa.literal(3_600, sa.BigInteger), sa.literal(1_000_000, sa.BigInteger)
HOUR = sa.literal(MICROSECONDS_PER_HOUR, sa.BigInteger)


def accrued(
    price: sa.ColumnElement[int],
    elapsed: sa.ColumnElement[int],
    numerator: sa.ColumnElement[int] | None = None,
    denominator: sa.ColumnElement[int] | None = None,
) -> sa.ColumnElement[int]:
    """floor(price x rate x elapsed / 1 h), as `billing.accrued` has it, of what is not negative.

    Hours, seconds and microseconds apart: no product leaves 64 bits while price x numerator is below 9 x 10^12, and a
    denominator below 10^6.
    """
    price = price if numerator is None else _whole(price * numerator)
    hours, seconds, rest = elapsed // HOUR, elapsed % HOUR // MICROSECONDS, elapsed % MICROSECONDS
    hourly, finer = (
        _whole(price * _whole(hours)),
        _whole(price * _whole(seconds)) + _whole(price * rest) // MICROSECONDS,
    )
    if denominator is None:
        return hourly + _whole(_whole(finer) // SECONDS)
    finer = _whole(_whole(hourly % denominator) * SECONDS) + finer
    return _whole(hourly // denominator) + _whole(_whole(finer) // _whole(SECONDS * denominator))


def _whole(value: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    """Integers divide into integers, on every database."""
    return sa.type_coerce(value, sa.BigInteger)


c = t.charges.c
ELAPSED = _whole(c.ended_at) - _whole(c.started_at)
ACCRUED = accrued(c.price_per_hour_micros, ELAPSED)
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


@lru_cache
def _within(summed: bool) -> sa.CompoundSelect[Any]:
    """One range of an index each: what runs, what ended in time, and corrections, which are booked at a moment."""
    i = t.instances.c
    charge = c.started_at, c.ended_at, c.price_per_hour_micros, c.currency, c.amount_micros
    query = sa.select(*charge, i.requested_at, i.launched_at).join(t.instances, c.instance_id == i.id)
    query = query.where(c.deployment == sa.bindparam("deployment"), c.started_at < sa.bindparam("end"))
    running = query.where(c.ended_at.is_(None), c.amount_micros.is_(None))
    ended = query.where(c.ended_at > START)
    if not summed:
        return sa.union_all(running, ended.where(sa.not_(WHOLE)))
    corrections = query.where(c.amount_micros.is_not(None), c.ended_at.is_(None), c.started_at >= START)
    return sa.union_all(running, ended, corrections)


def within(
    tx: sa.Connection, deployment: str, start: datetime, end: datetime, *, summed: bool = True
) -> tuple[Charge, ...]:
    """The charges of a deployment that touch [start, end), an open one as if it ended at `end`.

    `summed` False: without those that `closed` adds up.

    `end` is by our clock and a launch by its provider's. Where ours is ahead (a machine was launched before it was
    asked for), an open charge ends so much earlier: nobody has paid for the difference.
    """
    found = []
    for row in tx.execute(_within(summed), {"deployment": deployment, "start": start, "end": end}):
        ended_at = row.ended_at
        if ended_at is None and row.amount_micros is None and row.launched_at is not None:
            ahead = max(timedelta(0), row.requested_at - row.launched_at)
            ended_at = max(row.started_at, end - ahead)
        found.append(charge_of(row, ended_at))
    return tuple(found)
