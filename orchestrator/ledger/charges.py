"""What machines cost: the SQL of `charges`.

The open charge of a machine is the only row that is ever updated, and only to close it. A price change closes one and
opens the next; what the bill knows besides price and time is a correction when the machine is over.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
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
FOR_EVER = datetime.max.replace(tzinfo=UTC)


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
    c = t.charges.c
    booked = sa.select(c.ended_at).join(t.instances, c.instance_id == t.instances.c.id)
    booked = booked.where(_paid_as(machine), c.kind == kind, c.amount_micros.is_(None))
    ends = tx.scalars(booked.where(sa.or_(c.ended_at.is_(None), c.ended_at > started_at))).all()
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
    tx.execute(t.charges.insert().values(row))


def _paid_as(machine: Machine) -> sa.ColumnElement[bool]:
    """The machines that are paid for together with this one: itself, or all on the same box of ours."""
    c = t.instances.c
    if machine.purchase is not Purchase.OWNED:
        return c.id == machine.id
    owned = c.purchase == str(Purchase.OWNED)
    return sa.and_(owned, c.deployment == machine.deployment, c.offer_id == machine.offer_id)


def close(tx: sa.Connection, machine: Machine, ended_at: datetime, kind: str | None = None) -> None:
    """End what a machine costs (of a kind, or all); an engine that goes on on the same box takes the charge over.

    A charge never ends before it started.
    """
    c = t.charges.c
    still_open = sa.select(t.charges).where(
        c.instance_id == machine.id, c.ended_at.is_(None), c.amount_micros.is_(None)
    )
    for row in tx.execute(still_open if kind is None else still_open.where(c.kind == kind)).all():
        end = max(ended_at, row.started_at)
        tx.execute(t.charges.update().where(c.id == row.id).values(ended_at=end))
        _hand_over(tx, machine, row, end)


def _hand_over(tx: sa.Connection, machine: Machine, charge: sa.Row[Any], at: datetime) -> None:
    """Charge the oldest other machine that is paid for together with this one, at the same price."""
    if machine.purchase is not Purchase.OWNED:
        return
    c = t.instances.c
    others = sa.select(t.instances).where(_paid_as(machine), c.id != machine.id, c.status.in_(BILLABLE))
    row = tx.execute(others.where(c.launched_at.is_not(None)).order_by(c.intent_id).limit(1)).first()
    if row is not None:
        start(
            tx,
            machine_of(row),
            price_per_hour_micros=charge.price_per_hour_micros,
            currency=charge.currency,
            started_at=max(at, row.launched_at),
        )


def reprice(tx: sa.Connection, machine_id: str, price_per_hour_micros: int | None, currency: str, at: datetime) -> bool:
    """Close a machine's charge and open the next when its price has changed. Returns whether it had."""
    c = t.charges.c
    running = sa.select(t.charges).where(c.instance_id == machine_id, c.kind == COMPUTE, c.ended_at.is_(None))
    row = tx.execute(running.where(c.amount_micros.is_(None))).first()
    if row is None or (row.price_per_hour_micros, row.currency) == (price_per_hour_micros, currency):
        return False
    at = max(at, row.started_at)
    tx.execute(t.charges.update().where(c.id == row.id).values(ended_at=at))
    following = {name: value for name, value in row._mapping.items() if name not in ("id", "ended_at")}
    following |= {"price_per_hour_micros": price_per_hour_micros, "currency": currency, "started_at": at}
    tx.execute(t.charges.insert().values(following))
    return True


def follow(tx: sa.Connection, machine: Machine, prices: Sequence[Price], until: datetime) -> None:
    """Apply the price moves up to `until` that came after the machine's open charge began, each from its moment on."""
    c = t.charges.c
    running = sa.select(c.started_at).where(c.instance_id == machine.id, c.kind == COMPUTE, c.ended_at.is_(None))
    since = tx.scalar(running.where(c.amount_micros.is_(None)))
    if since is None:
        return
    for price in prices:
        if since < price.effective_at <= until:
            reprice(tx, machine.id, price.price_per_hour_micros, price.currency, price.effective_at)


def settle(tx: sa.Connection, machine: Machine, life: Life, prices: Sequence[Price], terms: Terms) -> None:
    """Book the difference between what a rented machine has cost and what was charged for it, when it is over.

    `prices` as `billing.due` wants them. Nothing is booked where a price is unknown, or where somebody switched the
    machine off and on again: then it was charged as it was seen.
    """
    c = t.charges.c
    rows = tx.execute(sa.select(t.charges).where(c.instance_id == machine.id).order_by(c.started_at, c.id)).all()
    compute = [row for row in rows if row.kind == COMPUTE]
    stretches = [row for row in compute if row.amount_micros is None]
    gaps = any(earlier.ended_at < later.started_at for earlier, later in pairwise(stretches))
    rates = [(one.effective_at, one.price_per_hour_micros) for one in prices if one.price_per_hour_micros is not None]
    if rates and len(rates) == len(prices) and not gaps:
        _correct(tx, compute, billing.due(life, rates, terms))
    if terms.disk_per_hour_micros:
        kept = Charge(
            started_at=life.launched_at, ended_at=life.ended_at, price_per_hour_micros=terms.disk_per_hour_micros
        )
        _correct(tx, [row for row in rows if row.kind == DISK], billing.accrued(kept, life.ended_at) or 0)


def _correct(tx: sa.Connection, rows: Sequence[sa.Row[Any]], due: int) -> None:
    """Book what is missing from the sum of these rows, or too much in it, at the end of the last stretch."""
    stretches = [row for row in rows if row.amount_micros is None]
    booked = sum(billing.accrued(_charge(row), FOR_EVER) or 0 for row in rows)
    if not stretches or booked == due:
        return
    last = stretches[-1]
    kept = ("instance_id", "deployment", "kind", "gpu", "purchase", "currency")
    row = {name: getattr(last, name) for name in kept}
    row |= {"started_at": last.ended_at, "corrects": last.id, "amount_micros": due - booked}
    tx.execute(t.charges.insert().values(row))


def _charge(row: sa.Row[*tuple[Any, ...]]) -> Charge:
    return Charge(
        started_at=row.started_at,
        ended_at=row.ended_at,
        price_per_hour_micros=row.price_per_hour_micros,
        currency=row.currency,
        amount_micros=row.amount_micros,
    )


def booked(tx: sa.Connection, kind: str) -> dict[str, list[Charge]]:
    """Every charge of a kind that was ever booked, by machine, corrections included."""
    found: dict[str, list[Charge]] = {}
    for row in tx.execute(sa.select(t.charges).where(t.charges.c.kind == kind).order_by(t.charges.c.id)):
        found.setdefault(row.instance_id, []).append(_charge(row))
    return found


def within(tx: sa.Connection, deployment: str, start: datetime, end: datetime) -> tuple[Charge, ...]:
    """The charges of a deployment that touch [start, end), an open one as if it ended at `end`.

    `end` is by our clock and a launch by its provider's. Where ours is ahead (a machine was launched before it was
    asked for), an open charge ends so much earlier: nobody has paid for the difference.
    """
    c, i = t.charges.c, t.instances.c
    query = sa.select(t.charges, i.requested_at, i.launched_at).join(t.instances, c.instance_id == i.id)
    query = query.where(c.deployment == deployment, sa.or_(c.ended_at.is_(None), c.ended_at > start))
    found = []
    for row in tx.execute(query.where(c.started_at < end)):
        charge = _charge(row)
        if charge.ended_at is None and charge.amount_micros is None and row.launched_at is not None:
            ahead = max(timedelta(0), row.requested_at - row.launched_at)
            charge = replace(charge, ended_at=max(charge.started_at, end - ahead))
        found.append(charge)
    return tuple(found)
