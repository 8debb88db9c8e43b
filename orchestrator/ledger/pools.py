"""Offers whose last launch came to nothing, in the words of whoever refused it."""

import sqlalchemy as sa

from orchestrator.ledger import tables as t


def refusals(tx: sa.Connection, deployment: str) -> dict[str, str]:
    """By offer id, of those where this deployment has launched and which have refused since they last accepted."""
    c, i = t.offers.c, t.instances.c
    asked = sa.exists().where(i.offer_id == c.id, i.deployment == deployment)
    rows = tx.execute(sa.select(c.id, c.refusal).where(c.refusals > 0, asked).order_by(c.id))
    return {row.id: row.refusal or "" for row in rows}
