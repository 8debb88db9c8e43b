"""What was, over a stretch of time and in as many steps as can be drawn: the SQL of the dashboard's charts.

Everything is added up where it lies, so that ninety days come back as a few hundred rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any, NamedTuple

import sqlalchemy as sa

from orchestrator.ledger import tables as t
from orchestrator.ledger.lives import GONE_AT, LOST
from policies.snapshot import Purchase

START, END = sa.bindparam("start", type_=t.Moment), sa.bindparam("end", type_=t.Moment)
OF_ONE: sa.BindParameter[str] = sa.bindparam("deployment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """A stretch of time cut into `count` steps of the same length."""

    start: datetime
    seconds: int
    count: int

    @property
    def end(self) -> datetime:
        return self.start + timedelta(seconds=self.seconds * self.count)

    def of(self, moment: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
        """The number of the step that a moment lies in; -1 before the first, `count` and more after the last."""
        since = sa.type_coerce(moment, sa.BigInteger) - (self.start - t.EPOCH) // t.MICROSECOND
        # apart, because databases round a negative quotient towards zero
        step = self.seconds * 1_000_000
        return sa.case((since < 0, sa.literal(-1)), else_=sa.type_coerce(since // step, sa.BigInteger))

    def asked(self, deployment: str) -> dict[str, object]:
        return {"deployment": deployment, "start": self.start, "end": self.end}


class Load(NamedTuple):
    """What one step was asked for, and how it went."""

    requests: int
    images: int
    failed: int
    refused: int


class Loss(NamedTuple):
    """A machine that was taken back (preempted) or vanished (lost), and when it was gone."""

    at: datetime
    instance_id: str
    status: str
    gpu: str
    zone: str
    purchase: str


LEFT_AT = sa.func.coalesce(t.instances.c.draining_at, GONE_AT, type_=t.Moment())


def replicas(tx: sa.Connection, deployment: str, steps: Steps) -> dict[Purchase, list[int]]:
    """How many were ready to serve at the end of each step, by what terms they were had on."""
    c = t.instances.c
    came, left = steps.of(c.ready_at).label("came"), steps.of(LEFT_AT).label("went")
    query = sa.select(c.purchase, came, left, sa.func.count()).where(
        c.deployment == OF_ONE, c.ready_at.is_not(None), c.ready_at < END, sa.or_(LEFT_AT.is_(None), LEFT_AT >= START)
    )
    changes: dict[Purchase, list[int]] = {}
    for purchase, first, last, machines in tx.execute(query.group_by(c.purchase, came, left), steps.asked(deployment)):
        line = changes.setdefault(Purchase(purchase), [0] * (steps.count + 1))
        line[max(0, first)] += machines
        if last is not None and last < steps.count:
            line[max(0, last)] -= machines
    return {terms: [*accumulate(line[: steps.count])] for terms, line in changes.items()}


def loads(tx: sa.Connection, deployment: str, steps: Steps) -> list[Load | None]:
    """The load of each step; None: nobody watched. A minute belongs to the step that it began in."""
    c = t.loads.c
    at = steps.of(c.at).label("step")
    sums = [sa.func.sum(column) for column in (c.requests, c.images, c.failed, c.refused)]
    query = sa.select(at, *sums).where(c.deployment == OF_ONE, c.at >= START, c.at < END).group_by(at)
    found: list[Load | None] = [None] * steps.count
    for step, *counts in tx.execute(query, steps.asked(deployment)):
        found[step] = Load(*map(int, counts))
    return found


def losses(tx: sa.Connection, deployment: str, start: datetime, end: datetime, limit: int) -> tuple[Loss, ...]:
    """The machines that were taken back or vanished between two moments, the latest first, at most `limit`."""
    c = t.instances.c
    query = sa.select(GONE_AT.label("at"), c.id, c.status, c.gpu, c.zone, c.purchase)
    query = query.where(c.deployment == OF_ONE, c.status.in_(LOST), GONE_AT >= START, GONE_AT < END)
    asked = {"deployment": deployment, "start": start, "end": end}
    return tuple(Loss(*row) for row in tx.execute(query.order_by(GONE_AT.desc()).limit(limit), asked))


def acted(tx: sa.Connection, deployment: str, until: datetime, limit: int) -> Sequence[sa.Row[Any]]:
    """The newest decisions up to a time that did something, the latest first."""
    c, i = t.ticks.c, t.intents.c
    latest = sa.select(i.tick_id).where(i.deployment == deployment, i.opened_at <= until).distinct()
    numbers = tx.scalars(latest.order_by(i.tick_id.desc()).limit(limit)).all()
    return tx.execute(sa.select(t.ticks).where(c.id.in_(numbers)).order_by(c.id.desc())).all()


def standing(tx: sa.Connection, deployment: str, until: datetime) -> sa.Row[Any] | None:
    """The decision that held at a time, without its snapshot; None: nothing was decided by then."""
    c = t.ticks.c
    query = sa.select(*(column for column in c if column.name != "snapshot"))
    query = query.where(c.deployment == deployment, c.at <= until)
    return tx.execute(query.order_by(c.at.desc(), c.id.desc()).limit(1)).first()


def decision(tx: sa.Connection, deployment: str, tick_id: int) -> sa.Row[Any] | None:
    """One decision with its snapshot; None when there is none of that number."""
    c = t.ticks.c
    return tx.execute(sa.select(t.ticks).where(c.id == tick_id, c.deployment == deployment)).first()


class PriceStep(NamedTuple):
    """The last price of an offer that came into force in a step; None: unknown from then on."""

    offer_id: str
    step: int
    price_per_hour_micros: int | None
    currency: str


def prices(tx: sa.Connection, offer_ids: Sequence[str], steps: Steps) -> list[PriceStep]:
    """The prices of these offers, by offer and step: -1 is what was in force when the first step began."""
    p = t.prices.c
    step = steps.of(p.effective_at).label("step")
    named = p.offer_id.in_(sa.bindparam("offers", expanding=True))
    # of each step the last one holds: by its moment, and of the same moment by when it was written down
    order = sa.func.row_number().over(partition_by=(p.offer_id, step), order_by=(p.effective_at.desc(), p.id.desc()))
    ranked = sa.select(p.offer_id, step, p.price_per_hour_micros, p.currency, order.label("place"))
    ranked_rows = ranked.where(named, p.effective_at < END).subquery()
    r = ranked_rows.c
    query = sa.select(r.offer_id, r.step, r.price_per_hour_micros, r.currency).where(r.place == 1)
    asked = {"offers": list(offer_ids), "end": steps.end}
    return [PriceStep(*row) for row in tx.execute(query.order_by(r.offer_id, r.step), asked)]


def first_at(tx: sa.Connection) -> datetime | None:
    """When the first decision was taken; None: none yet."""
    return tx.scalar(sa.select(t.ticks.c.at).order_by(t.ticks.c.id).limit(1))
