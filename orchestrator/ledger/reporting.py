"""What a report reads: charges, images, and the minutes for which there is evidence."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from orchestrator.billing import Charge
from orchestrator.ledger import tables as t
from orchestrator.ledger.store import Ledger
from policies.snapshot import Purchase

MINUTE = timedelta(minutes=1)
_MICROSECONDS_PER_MINUTE = 60_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked:
    """A charge and whose it is."""

    charge: Charge
    deployment: str
    kind: str  # compute | disk | address
    provider: str
    gpu: str
    purchase: Purchase


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Images that one kind of machine read for a deployment."""

    deployment: str
    gpu: str
    purchase: Purchase
    images: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A stretch in which a replica was there to serve; None: it still is."""

    deployment: str
    started_at: datetime
    ended_at: datetime | None


def charges(tx: sa.Connection, start: datetime, end: datetime, deployment: str | None = None) -> tuple[Booked, ...]:
    """Every charge that touches [start, end), and every correction booked in it."""
    c = t.charges.c
    running = sa.and_(c.amount_micros.is_(None), sa.or_(c.ended_at.is_(None), c.ended_at > start))
    booked = sa.and_(c.amount_micros.is_not(None), c.started_at >= start)
    query = sa.select(t.charges, t.instances.c.provider).join(t.instances, c.instance_id == t.instances.c.id)
    query = query.where(c.started_at < end, sa.or_(running, booked)).order_by(c.id)
    if deployment is not None:
        query = query.where(c.deployment == deployment)
    return tuple(
        Booked(
            charge=Charge(
                started_at=row.started_at,
                ended_at=row.ended_at,
                price_per_hour_micros=row.price_per_hour_micros,
                currency=row.currency,
                amount_micros=row.amount_micros,
            ),
            deployment=row.deployment,
            kind=row.kind,
            provider=row.provider,
            gpu=row.gpu,
            purchase=Purchase(row.purchase),
        )
        for row in tx.execute(query)
    )


def served(tx: sa.Connection, start: datetime, end: datetime) -> tuple[Served, ...]:
    """Images read in the minutes of [start, end), by deployment, GPU and purchase of the machine that read them."""
    load, machine = t.loads.c, t.instances.c
    images = sa.func.sum(load.images).label("images")
    query = (
        sa.select(load.deployment, machine.gpu, machine.purchase, images)
        .join(t.instances, machine.id == load.instance_id)
        .where(load.at >= start, load.at < end)
        .group_by(load.deployment, machine.gpu, machine.purchase)
        .order_by(load.deployment, machine.gpu, machine.purchase)
    )
    return tuple(
        Served(deployment=row.deployment, gpu=row.gpu, purchase=Purchase(row.purchase), images=int(row.images))
        for row in tx.execute(query)
        if row.images
    )


def ready(tx: sa.Connection, start: datetime, end: datetime) -> tuple[Ready, ...]:
    """The stretches that touch [start, end) with a ready replica: from its first answer until it had to leave."""
    c = t.instances.c
    left_at = sa.func.coalesce(c.draining_at, c.ended_at, c.missing_since, type_=c.ended_at.type).label("left_at")
    query = sa.select(c.deployment, c.ready_at, left_at).where(
        c.ready_at < end, sa.or_(left_at.is_(None), left_at > start)
    )
    return tuple(
        Ready(deployment=row.deployment, started_at=row.ready_at, ended_at=row.left_at)
        for row in tx.execute(query.order_by(c.deployment, c.ready_at))
    )


def evidence(tx: sa.Connection, start: datetime, end: datetime) -> dict[str, set[datetime]]:
    """The minutes of [start, end) in which a deployment was looked after: a decision was taken, or its load noted."""
    minutes: dict[str, set[datetime]] = {}
    for table in (t.ticks, t.loads):
        minute = sa.type_coerce(sa.type_coerce(table.c.at, sa.BigInteger) // _MICROSECONDS_PER_MINUTE, sa.BigInteger)
        query = sa.select(table.c.deployment, minute.label("minute")).distinct()
        for row in tx.execute(query.where(table.c.at >= start, table.c.at < end)):
            minutes.setdefault(row.deployment, set()).add(t.EPOCH + int(row.minute) * MINUTE)
    return minutes


def currencies(tx: sa.Connection) -> tuple[str, ...]:
    """The currencies that charges are in, the commonest first."""
    c = t.charges.c
    query = sa.select(c.currency).where(c.currency != "").group_by(c.currency)
    return tuple(tx.scalars(query.order_by(sa.func.count().desc(), c.currency)))


def simulated_until(ledger: Ledger) -> datetime | None:
    """How far a simulated ledger's own time has come; None for a real one, whose time is now."""
    if not ledger.simulated():
        return None
    with ledger.read() as tx:
        return tx.execute(sa.select(t.ticks.c.at).order_by(t.ticks.c.id.desc()).limit(1)).scalar()
