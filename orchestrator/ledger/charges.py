"""What machines cost: the SQL of `charges`.

The open charge of a machine is the only row that is ever updated, and only to close it. A price change closes one and
opens the next; what the bill knows besides price and time is a correction when the machine is over.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from typing import Any

import sqlalchemy as sa

from orchestrator import billing
from orchestrator.billing import Charge, Life, Terms
from orchestrator.ledger import tables as t
from orchestrator.ledger.fleet import BILLABLE, Machine, machine_of
from orchestrator.ledger.offers import Price
from policies.snapshot import Purchase

COMPUTE, DISK = "compute", "disk"
#: when a machine was switched off, and on again, as its provider lists it
Stops = Sequence[tuple[datetime, datetime | None]]
FOR_EVER = datetime.max.replace(tzinfo=UTC)


INSERT = t.charges.insert()


def start(
    tx: sa.Connection,
    machine: Machine,
    *,
    price_per_hour_micros: int | None,
    currency: str,
    started_at: datetime,
    kind: str = COMPUTE,
) -> None:
    """Start to charge a machine, back-dated to its launch, but for what is charged already.

    A machine has at most one open charge of a kind; and so has a box of ours, however many engines run on it.
    """
    asked = _payer(machine) | {"kind": kind, "since": started_at}
    ends = tx.scalars(_booked_ends(machine.purchase is Purchase.OWNED), asked).all()
    if None in ends:
        return
    row = {
        "instance_id": machine.id,
        "deployment": machine.deployment,
        "kind": kind,
        "gpu": machine.gpu,
        "purchase": str(machine.purchase),
        "price_per_hour_micros": price_per_hour_micros,
        "currency": currency,
        "started_at": max((started_at, *ends)),
    }
    tx.execute(INSERT, row)


@lru_cache
def _booked_ends(owned: bool) -> sa.Select[Any]:
    c = t.charges.c
    query = sa.select(c.ended_at).join(t.instances, c.instance_id == t.instances.c.id)
    query = query.where(_paid_as(owned), c.kind == sa.bindparam("kind"), c.amount_micros.is_(None))
    return query.where(sa.or_(c.ended_at.is_(None), c.ended_at > sa.bindparam("since")))


def _paid_as(owned: bool) -> sa.ColumnElement[bool]:
    """The machines that are paid for together with `_payer`: itself, or all on the same box of ours."""
    c = t.instances.c
    if not owned:
        return c.id == sa.bindparam("machine")
    box = c.deployment == sa.bindparam("deployment"), c.offer_id == sa.bindparam("offer")
    return sa.and_(c.purchase == str(Purchase.OWNED), *box)


def _payer(machine: Machine) -> dict[str, Any]:
    if machine.purchase is not Purchase.OWNED:
        return {"machine": machine.id}
    return {"deployment": machine.deployment, "offer": machine.offer_id}


RUNNING = sa.select(t.charges).where(
    t.charges.c.instance_id == sa.bindparam("machine"),
    t.charges.c.ended_at.is_(None),
    t.charges.c.amount_micros.is_(None),
)
#: since when it is charged for its time, since it was switched on last, or its price moved
BEGUN = sa.select(sa.func.max(t.charges.c.started_at, type_=t.Moment)).where(
    t.charges.c.instance_id == sa.bindparam("machine"),
    t.charges.c.kind == COMPUTE,
    t.charges.c.amount_micros.is_(None),
)
RUNNING_COMPUTE = RUNNING.where(t.charges.c.kind == COMPUTE)
END = t.charges.update().where(t.charges.c.id == sa.bindparam("charge"))


def close(tx: sa.Connection, machine: Machine, ended_at: datetime, kind: str | None = None) -> None:
    """End what a machine costs (of a kind, or all); an engine that goes on on the same box takes the charge over.

    A charge never ends before it started.
    """
    for row in tx.execute(RUNNING, {"machine": machine.id}).all():
        if kind not in (None, row.kind):
            continue
        end = max(ended_at, row.started_at)
        tx.execute(END, {"charge": row.id, "ended_at": end})
        _hand_over(tx, machine, row, end)


OTHER_ON_THE_BOX = (
    sa.select(t.instances)
    .where(_paid_as(owned=True), t.instances.c.id != sa.bindparam("machine"))
    .where(t.instances.c.status.in_(BILLABLE), t.instances.c.launched_at.is_not(None))
    .order_by(t.instances.c.intent_id)
    .limit(1)
)


def _hand_over(tx: sa.Connection, machine: Machine, charge: sa.Row[Any], at: datetime) -> None:
    """Charge the oldest other machine that is paid for together with this one, at the same price."""
    if machine.purchase is not Purchase.OWNED:
        return
    row = tx.execute(OTHER_ON_THE_BOX, _payer(machine) | {"machine": machine.id}).first()
    if row is not None:
        start(
            tx,
            machine_of(row),
            price_per_hour_micros=charge.price_per_hour_micros,
            currency=charge.currency,
            started_at=max(at, row.launched_at),
        )


def reprice(
    tx: sa.Connection, machine_id: str, price: tuple[int | None, str], at: datetime, *, cut: bool = False
) -> None:
    """Close a machine's charge and open the next when its price has moved, or to `cut` off what is to be corrected."""
    row = tx.execute(RUNNING_COMPUTE, {"machine": machine_id}).first()
    if row is None or (not cut and (row.price_per_hour_micros, row.currency) == price):
        return
    at = max(at, row.started_at)
    tx.execute(END, {"charge": row.id, "ended_at": at})
    following = {name: value for name, value in row._mapping.items() if name not in ("id", "ended_at")}
    following |= {"price_per_hour_micros": price[0], "currency": price[1], "started_at": at}
    tx.execute(INSERT, following)


def switch(tx: sa.Connection, machine: Machine, stops: Stops, prices: Sequence[Price]) -> None:
    """Every time that a machine is switched off ends its charge, and every time it is switched on starts the next.

    What is booked already stays: this may be repeated. What was booked beyond a stop that is told late is corrected
    when the machine is over.
    """
    begun = tx.scalar(BEGUN, {"machine": machine.id})
    for off, on in stops:
        if begun is None or (on is not None and (on < begun or (on == begun and _runs(tx, machine)))):
            continue
        follow(tx, machine, prices, off)
        close(tx, machine, off, COMPUTE)
        if on is not None:
            price, currency = in_force(prices, on)
            start(tx, machine, price_per_hour_micros=price, currency=currency, started_at=on)
            begun = on


def _runs(tx: sa.Connection, machine: Machine) -> bool:
    return tx.execute(RUNNING_COMPUTE, {"machine": machine.id}).first() is not None


def in_force(prices: Sequence[Price], at: datetime) -> tuple[int | None, str]:
    """The price at a moment and its currency, of a life's prices: the first one also before its time."""
    found = [price for price in prices if price.effective_at <= at] or list(prices[:1])
    return (found[-1].price_per_hour_micros, found[-1].currency) if found else (None, "")


PAID = (
    sa.select(t.instances.c.offer_id, t.charges.c.price_per_hour_micros, t.charges.c.currency)
    .join(t.instances, t.charges.c.instance_id == t.instances.c.id)
    .where(t.charges.c.deployment == sa.bindparam("deployment"), t.charges.c.kind == COMPUTE)
    .where(t.charges.c.ended_at.is_(None), t.charges.c.amount_micros.is_(None))
    .distinct()
)


def paid(tx: sa.Connection, deployment: str) -> Sequence[tuple[str, int | None, str]]:
    """(offer, price per hour, currency) of what is charged now: where it differs from the offer, that has moved."""
    return [(row[0], row[1], row[2]) for row in tx.execute(PAID, {"deployment": deployment})]


def follow(tx: sa.Connection, machine: Machine, prices: Sequence[Price], until: datetime) -> None:
    """Apply the price moves up to `until` that came after the machine's open charge began, each from its moment on.

    A price of before that was learned since then holds from `until` on; the rest is for `catch_up`.
    """
    row = tx.execute(RUNNING_COMPUTE, {"machine": machine.id}).first()
    if row is None:
        return
    since = row.started_at
    learned = in_force(prices, since) != (row.price_per_hour_micros, row.currency)
    for price in prices:
        if since < price.effective_at <= until:
            reprice(tx, machine.id, (price.price_per_hour_micros, price.currency), price.effective_at, cut=learned)
            learned = False
    if prices and since < until:
        reprice(tx, machine.id, in_force(prices, until), until)


OF_MACHINE = (
    sa.select(t.charges)
    .where(t.charges.c.instance_id == sa.bindparam("machine"))
    .order_by(t.charges.c.started_at, t.charges.c.id)
)


def stops(tx: sa.Connection, machine: Machine) -> Stops:
    """When a machine that is over was switched off, and on again, by the stretches of its time that were charged."""
    rows = tx.execute(OF_MACHINE, {"machine": machine.id}).all()
    stretches = [row for row in rows if row.kind == COMPUTE and row.amount_micros is None]
    found: list[tuple[datetime, datetime | None]] = [
        (earlier.ended_at, later.started_at)
        for earlier, later in pairwise(stretches)
        if earlier.ended_at < later.started_at
    ]
    ends = stretches[-1].ended_at if stretches else None
    if ends is not None and machine.ended_at is not None and ends < machine.ended_at:
        found.append((ends, None))
    return tuple(found)


def settle(tx: sa.Connection, machine: Machine, life: Life, prices: Sequence[Price], terms: Terms) -> None:
    """Book the difference between what a rented machine has cost and what was charged for it, when it is over.

    `prices` as `billing.due` wants them. Nothing is booked where a price is unknown, or where somebody switched the
    machine off and on again and its provider does not remember when: then it was charged as it was seen.
    """
    rows = tx.execute(OF_MACHINE, {"machine": machine.id}).all()
    compute = [row for row in rows if row.kind == COMPUTE]
    stretches = [row for row in compute if row.amount_micros is None]
    gaps = not life.stops and any(earlier.ended_at < later.started_at for earlier, later in pairwise(stretches))
    rates = _rates(prices)
    if rates and not gaps:
        _correct(tx, compute, billing.due(life, rates, terms), prices[-1].currency)
    if terms.disk_per_hour_micros:
        kept = Charge(
            started_at=life.launched_at, ended_at=life.ended_at, price_per_hour_micros=terms.disk_per_hour_micros
        )
        disks = [row for row in rows if row.kind == DISK]
        if disks:
            _correct(tx, disks, billing.accrued(kept, life.ended_at) or 0, disks[-1].currency)


def catch_up(tx: sa.Connection, machine: Machine, prices: Sequence[Price]) -> None:
    """Book what prices that were learned late make of the stretches of a rented machine that are closed.

    It goes on: its minimums and its free hour are for the end, where `settle` books them.
    """
    rows = [row for row in tx.execute(OF_MACHINE, {"machine": machine.id}) if row.kind == COMPUTE]
    closed = [row for row in rows if row.amount_micros is not None or row.ended_at is not None]
    lives = [Life(launched_at=row.started_at, ended_at=row.ended_at) for row in closed if row.amount_micros is None]
    if rates := _rates(prices):
        _correct(tx, closed, sum(billing.due(life, rates, Terms()) for life in lives), prices[-1].currency)


def _rates(prices: Sequence[Price]) -> list[tuple[datetime, int]]:
    """Prices as `billing.due` wants them; none when one is unknown."""
    known = [(one.effective_at, one.price_per_hour_micros) for one in prices if one.price_per_hour_micros is not None]
    return known if len(known) == len(prices) else []


def _correct(tx: sa.Connection, rows: Sequence[sa.Row[Any]], due: int, currency: str) -> None:
    """Book what is missing from the sum of these rows, or too much in it, at the end of the last stretch."""
    stretches = [row for row in rows if row.amount_micros is None]
    booked = sum(billing.accrued(charge_of(row, row.ended_at), FOR_EVER) or 0 for row in rows)
    if not stretches or booked == due:
        return
    last = stretches[-1]
    row = {name: getattr(last, name) for name in ("instance_id", "deployment", "kind", "gpu", "purchase")}
    row |= {"currency": currency, "started_at": last.ended_at, "corrects": last.id, "amount_micros": due - booked}
    tx.execute(INSERT, row)


def charge_of(row: sa.Row[*tuple[Any, ...]], ended_at: datetime | None) -> Charge:
    """The charge of a row, as if it ended then."""
    return Charge(
        started_at=row.started_at,
        ended_at=ended_at,
        price_per_hour_micros=row.price_per_hour_micros,
        currency=row.currency,
        amount_micros=row.amount_micros,
    )


BOOKED = sa.select(t.charges).where(t.charges.c.kind == sa.bindparam("kind")).order_by(t.charges.c.id)


def booked(tx: sa.Connection, kind: str) -> dict[str, list[Charge]]:
    """Every charge of a kind that was ever booked, by machine, corrections included."""
    found: dict[str, list[Charge]] = {}
    for row in tx.execute(BOOKED, {"kind": kind}):
        found.setdefault(row.instance_id, []).append(charge_of(row, row.ended_at))
    return found
