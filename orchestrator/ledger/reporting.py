"""What a report reads: charges, images, and the minutes for which there is evidence."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from orchestrator.billing import Charge
from orchestrator.ledger import tables as t
from orchestrator.ledger.lives import GONE_AT, in_batches
from orchestrator.ledger.quotes import OF_PROVIDER, SINCE_EVER, source_name
from orchestrator.ledger.store import Ledger
from policies.snapshot import Purchase

MICROSECONDS_PER_MINUTE = 60_000_000


class Booked(NamedTuple):
    """A charge and whose it is. There may be a million: a tuple is made four times as fast as a frozen dataclass."""

    charge: Charge
    deployment: str
    kind: str  # compute | disk | address
    provider: str
    gpu: str
    purchase: Purchase
    instance_id: str
    charge_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Images that one kind of machine read for a deployment."""

    deployment: str
    gpu: str
    purchase: Purchase
    images: int


class Ready(NamedTuple):
    """A stretch in which a replica was there to serve, in microseconds since EPOCH; None: it still is."""

    deployment: str
    started_at: int
    ended_at: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """Where the prices that machines were charged at come from, and when the newest of them was written down."""

    source: str
    recorded_at: datetime | None  # None: it gives no dates, so nobody knows how old its prices are


def charges(tx: sa.Connection, start: datetime, end: datetime, deployment: str | None = None) -> tuple[Booked, ...]:
    """Every charge that touches [start, end), and every correction booked in it, in the order of booking."""
    names = deployed(tx) if deployment is None else [deployment]
    asked = {"names": names, "start": start, "end": end}
    return _booked(tx.execute(_touching(is_early(tx, start)), asked))


def charges_of(tx: sa.Connection, instance_ids: Collection[str]) -> tuple[Booked, ...]:
    """Every charge of these machines, in the order of booking."""
    named = BOOKED.where(t.charges.c.instance_id.in_(sa.bindparam("names", expanding=True)))
    return _booked(row for names in in_batches(instance_ids) for row in tx.execute(named, {"names": names}))


def _booked(rows: Iterable[sa.Row[Any]]) -> tuple[Booked, ...]:
    found = sorted(map(tuple, rows))
    purchases = {str(purchase): purchase for purchase in Purchase}
    return tuple(
        Booked(
            charge=Charge(
                started_at=t.EPOCH + timedelta(microseconds=started_at),
                ended_at=None if ended_at is None else t.EPOCH + timedelta(microseconds=ended_at),
                price_per_hour_micros=price,
                currency=currency,
                amount_micros=amount,
            ),
            deployment=name,
            kind=kind,
            provider=provider,
            gpu=gpu,
            purchase=purchases[purchase],
            instance_id=machine,
            charge_id=number,
        )
        for number, name, machine, kind, provider, gpu, purchase, started_at, ended_at, price, currency, amount in found
    )


def microseconds(at: datetime) -> int:
    """A moment as the ledger has it."""
    return (at - t.EPOCH) // t.MICROSECOND


def deployed(tx: sa.Connection) -> list[str]:
    """The names of all deployments that ever were."""
    return list(tx.scalars(sa.select(t.deployments.c.name)))


def is_early(tx: sa.Connection, start: datetime) -> bool:
    """Whether fewer charges began before `start` than since then, as far as the dates of all of them say."""
    c = t.charges.c.started_at
    oldest, newest = (tx.scalar(sa.select(one(c, type_=t.Moment()))) for one in (sa.func.min, sa.func.max))
    return oldest is not None and newest is not None and start - oldest < newest - start


def _booked_columns() -> sa.Select[Any]:
    c, i = t.charges.c, t.instances.c
    moments = [sa.type_coerce(moment, sa.BigInteger) for moment in (c.started_at, c.ended_at)]
    charge = *moments, c.price_per_hour_micros, c.currency, c.amount_micros
    whose = c.id, c.deployment, c.instance_id, c.kind, i.provider, c.gpu, c.purchase
    return sa.select(*whose, *charge).join(t.instances, c.instance_id == i.id)


BOOKED = _booked_columns()


START, END = sa.bindparam("start", type_=t.Moment), sa.bindparam("end", type_=t.Moment)


@lru_cache
def _touching(early: bool) -> sa.CompoundSelect[Any]:
    """What began within [start, end), and what began before and ran at its start: one range of an index each."""
    c = t.charges.c
    began = BOOKED.where(c.started_at >= START, c.started_at < END)
    return sa.union_all(began.where(c.deployment.in_(NAMES)), *running_at(BOOKED, early))


NAMES: sa.BindParameter[str] = sa.bindparam("names", expanding=True)


def running_at(query: sa.Select[Any], early: bool) -> tuple[sa.Select[Any], sa.Select[Any]]:
    """Of the charges of a query, those of `names` that began before `start` and ended since, and that still run.

    What began before and ended since is the overlap of two ranges, of which an index helps to one: to that of the
    beginnings for an early month, of which there are few before it, and to that of the ends for a late one.
    """
    c = t.charges.c
    before = query.where(c.started_at < START, c.amount_micros.is_(None))
    since = (
        (c.deployment.concat("").in_(NAMES), _unindexed(c.ended_at) > START)
        if early
        else (c.deployment.in_(NAMES), c.ended_at > START)
    )
    return before.where(*since), before.where(c.ended_at.is_(None), c.deployment.in_(NAMES))


def _unindexed(moment: sa.ColumnElement[datetime]) -> sa.ColumnElement[int]:
    """Any arithmetic keeps a database from looking the moment up in an index."""
    return sa.type_coerce(moment, sa.BigInteger) + 0


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


def minutes(tx: sa.Connection, start: datetime, end: datetime) -> dict[str, list[tuple[datetime, int]]]:
    """The images of [start, end) by the machine that read them and the minute, oldest first."""
    load = t.loads.c
    found: dict[str, list[tuple[datetime, int]]] = {}
    query = sa.select(load.instance_id, load.at, load.images).where(load.at >= start, load.at < end, load.images > 0)
    for row in tx.execute(query.order_by(load.at)):
        found.setdefault(row.instance_id, []).append((row.at, row.images))
    return found


def ready(tx: sa.Connection, start: datetime, end: datetime) -> Iterator[Ready]:
    """The stretches that touch [start, end) with a ready replica: from its first answer until it had to leave.

    By deployment and start, read as they are asked for.
    """
    c = t.instances.c
    left_at = sa.func.coalesce(c.draining_at, c.ended_at, c.missing_since, type_=t.Moment())
    moments = (sa.type_coerce(moment, sa.BigInteger) for moment in (c.ready_at, left_at))
    query = sa.select(c.deployment, *moments).where(c.ready_at < end, sa.or_(left_at.is_(None), left_at > start))
    return map(Ready._make, tx.execute(query.order_by(c.deployment, c.ready_at)))


def evidence(tx: sa.Connection, start: datetime, end: datetime) -> dict[str, list[int]]:
    """The minutes since EPOCH of [start, end) in which a deployment was looked after: a decision was taken, or its load
    noted. In order.
    """
    minutes: dict[str, set[int]] = {}
    for table in (t.ticks, t.loads):
        minute = sa.type_coerce(sa.type_coerce(table.c.at, sa.BigInteger) // MICROSECONDS_PER_MINUTE, sa.BigInteger)
        query = sa.select(table.c.deployment, minute).distinct().where(table.c.at >= start, table.c.at < end)
        for name, at in tx.execute(query):
            minutes.setdefault(name, set()).add(int(at))
    return {name: sorted(found) for name, found in minutes.items()}


def boots(tx: sa.Connection, start: datetime, end: datetime) -> dict[tuple[str, str, Purchase], int]:
    """Microseconds of [start, end) that machines ran and did not serve yet, by deployment, GPU and purchase."""
    c = t.instances.c
    first, last = sa.literal(start, t.Moment), sa.literal(end, t.Moment)

    def clipped(moment: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
        return sa.type_coerce(sa.case((moment < first, first), (moment > last, last), else_=moment), sa.BigInteger)

    up_at = sa.func.coalesce(c.ready_at, GONE_AT, last, type_=t.Moment())
    ran = sa.func.sum(clipped(up_at) - clipped(c.launched_at), type_=sa.BigInteger)
    query = sa.select(c.deployment, c.gpu, c.purchase, ran).where(
        c.launched_at < end, up_at > start, up_at > c.launched_at
    )
    rows = tx.execute(query.group_by(c.deployment, c.gpu, c.purchase))
    return {(name, gpu, Purchase(purchase)): int(micros) for name, gpu, purchase, micros in rows}


def on_spot(tx: sa.Connection) -> list[tuple[str, str]]:
    """Provider and GPU of everything that was ever had on spot."""
    c = t.instances.c
    query = sa.select(c.provider, c.gpu).where(c.purchase == str(Purchase.SPOT)).distinct()
    return [(provider, gpu) for provider, gpu in tx.execute(query.order_by(c.provider, c.gpu))]


def quoted(tx: sa.Connection, start: datetime, end: datetime) -> tuple[Quoted, ...]:
    """The sources of the prices of what was charged in [start, end), by name."""
    c, p = t.instances.c, t.prices.c
    used = sa.select(c.offer_id).where(c.launched_at < end, sa.or_(GONE_AT.is_(None), start < GONE_AT)).distinct()
    source = source_name().label("source")
    priced = p.offer_id.in_(used), p.effective_at < end, p.price_per_hour_micros.is_not(None)
    # what a provider itself says holds as of when it was asked, since whenever it holds
    dated_at = sa.case((sa.or_(p.effective_at > SINCE_EVER, p.source == OF_PROVIDER), p.recorded_at))
    query = sa.select(source, sa.func.max(dated_at, type_=t.Moment()).label("at")).where(*priced)
    query = query.join(t.offers, t.offers.c.id == p.offer_id)
    rows = tx.execute(query.group_by(source).order_by(source))
    return tuple(Quoted(source=row.source, recorded_at=row.at) for row in rows)


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
