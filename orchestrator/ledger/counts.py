"""How many machines and running charges there are, counted where they lie."""

from typing import NamedTuple

import sqlalchemy as sa

from orchestrator.ledger import tables as t


class Machines(NamedTuple):
    """So many machines of one kind, over or not."""

    deployment: str
    provider: str
    gpu: str
    purchase: str
    status: str
    number: int


class Running(NamedTuple):
    """The open charges of a deployment in one currency. `micros_per_hour` is of those whose price is known."""

    deployment: str
    currency: str
    charges: int
    micros_per_hour: int
    unpriced: int


_KIND = (t.instances.c[name] for name in Machines._fields[:-1])
_MACHINES = sa.select(*(kind := tuple(_KIND)), sa.func.count()).group_by(*kind)
_PRICE = t.charges.c.price_per_hour_micros
_RUNNING = (
    sa.select(
        t.charges.c.deployment,
        t.charges.c.currency,
        sa.func.count(),
        sa.func.coalesce(sa.func.sum(_PRICE), 0),
        sa.func.count() - sa.func.count(_PRICE),
    )
    .where(t.charges.c.ended_at.is_(None), t.charges.c.amount_micros.is_(None))
    .group_by(t.charges.c.deployment, t.charges.c.currency)
)


def machines(tx: sa.Connection) -> list[Machines]:
    """All that were ever asked for, by kind."""
    return [Machines._make(row) for row in tx.execute(_MACHINES)]


def running(tx: sa.Connection) -> list[Running]:
    """What costs money now."""
    return [
        Running(name, currency, count, int(micros), lost)
        for name, currency, count, micros, lost in tx.execute(_RUNNING)
    ]
