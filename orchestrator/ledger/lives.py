"""The lives of machines, as far as a report asks: who was there, who was lost, who came instead."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from orchestrator.ledger import tables as t
from policies.lifecycle import Status
from policies.snapshot import Purchase

LOST = [str(status) for status in (Status.PREEMPTED, Status.LOST)]
#: names in one statement
BATCH = 1000
GONE_AT = sa.func.coalesce(t.instances.c.ended_at, t.instances.c.missing_since, type_=t.Moment())


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """A machine's life, as far as a report asks: when it was asked for, came up and went, and what decided it."""

    instance_id: str
    deployment: str
    gpu: str
    zone: str
    instance_type: str
    purchase: Purchase
    tick_id: int
    intent_id: int
    requested_at: datetime
    launched_at: datetime | None
    ready_at: datetime | None
    ended_at: datetime | None  # None: it is still there
    lost_at: datetime | None  # it was taken back or vanished: when that was first known


def there(tx: sa.Connection, start: datetime, end: datetime) -> tuple[Life, ...]:
    """The machines that were there for a part of [start, end), by when they were asked for."""
    c = t.instances.c
    stayed = c.requested_at < end, sa.or_(GONE_AT.is_(None), start < GONE_AT)
    return tuple(map(_life, tx.execute(LIVES.where(*stayed).order_by(c.requested_at, c.id))))


def lost(tx: sa.Connection, start: datetime, end: datetime) -> list[Life]:
    """The machines that were taken back or vanished within [start, end), by when that was first known."""
    c = t.instances.c
    there = c.status.in_(LOST), c.requested_at < end, sa.or_(GONE_AT.is_(None), start <= GONE_AT)
    found = [(one.lost_at, one) for one in map(_life, tx.execute(LIVES.where(*there).order_by(c.requested_at, c.id)))]
    return [one for at, one in sorted(found, key=lambda pair: pair[0] or end) if at is not None and start <= at < end]


def launched(tx: sa.Connection, deployment: str, since: datetime, until: datetime) -> list[tuple[int, str]]:
    """When the machines of a deployment that came were asked for, from `since` to `until`, and their ids, in order.

    Moments in microseconds since EPOCH: there may be a hundred thousand.
    """
    c = t.instances.c
    asked = c.deployment == deployment, c.requested_at >= since, c.requested_at <= until, c.launched_at.is_not(None)
    query = sa.select(sa.type_coerce(c.requested_at, sa.BigInteger), c.id).where(*asked)
    return [(at, name) for at, name in tx.execute(query.order_by(c.requested_at, c.id))]


def of(tx: sa.Connection, instance_ids: Collection[str]) -> dict[str, Life]:
    """The lives of these machines, by id."""
    named = LIVES.where(t.instances.c.id.in_(sa.bindparam("names", expanding=True)))
    return {row.id: _life(row) for names in in_batches(instance_ids) for row in tx.execute(named, {"names": names})}


def in_batches(names: Collection[str]) -> Iterator[list[str]]:
    """As many as one statement may name, again and again."""
    asked = sorted(names)
    return (asked[start : start + BATCH] for start in range(0, len(asked), BATCH))


def _lives() -> sa.Select[Any]:
    c = t.instances.c
    moments = c.requested_at, c.launched_at, c.ready_at, c.draining_at, c.reclaim_at, GONE_AT.label("gone_at")
    kind = c.gpu, c.zone, c.instance_type, c.purchase
    query = sa.select(c.id, c.deployment, *kind, c.status, c.intent_id, t.intents.c.tick_id, *moments)
    return query.join(t.intents, t.intents.c.id == c.intent_id)


LIVES = _lives()


def _life(row: sa.Row[Any]) -> Life:
    known = [at for at in (row.draining_at, row.reclaim_at, row.gone_at) if at is not None]
    return Life(
        instance_id=row.id,
        deployment=row.deployment,
        gpu=row.gpu,
        zone=row.zone,
        instance_type=row.instance_type,
        purchase=Purchase(row.purchase),
        tick_id=row.tick_id,
        intent_id=row.intent_id,
        requested_at=row.requested_at,
        launched_at=row.launched_at,
        ready_at=row.ready_at,
        ended_at=row.gone_at,
        lost_at=min(known) if row.status in LOST and known else None,
    )
