"""What policies remember between ticks, restarts and jobs: the SQL of `beliefs`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from orchestrator.ledger import tables as t


def known(tx: sa.Connection, deployment: str) -> dict[str, Mapping[str, Any]]:
    """By policy (placement, deadline): plain values, as it gave them."""
    c = t.beliefs.c
    rows = tx.execute(sa.select(c.policy, c.memory).where(c.deployment == deployment))
    return {row.policy: row.memory for row in rows}


def keep(tx: sa.Connection, deployment: str, memory: Mapping[str, Mapping[str, Any]], now: datetime) -> None:
    """Remember these instead of what was remembered; what other policies remember stays."""
    c = t.beliefs.c
    for policy, values in memory.items():
        row = {"memory": values, "updated_at": now}
        held = t.beliefs.update().where(c.deployment == deployment, c.policy == policy)
        if not tx.execute(held.values(row)).rowcount:
            tx.execute(t.beliefs.insert().values(deployment=deployment, policy=policy, **row))
