"""What policies remember between ticks, restarts and jobs: the SQL of `beliefs`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from orchestrator.ledger import tables as t

KNOWN = sa.select(t.beliefs.c.policy, t.beliefs.c.memory).where(t.beliefs.c.deployment == sa.bindparam("deployment"))
HELD = t.beliefs.update().where(
    t.beliefs.c.deployment == sa.bindparam("whose"), t.beliefs.c.policy == sa.bindparam("which")
)
INSERT = t.beliefs.insert()


def known(tx: sa.Connection, deployment: str) -> dict[str, Mapping[str, Any]]:
    """By policy (placement, deadline): plain values, as it gave them."""
    return {row.policy: row.memory for row in tx.execute(KNOWN, {"deployment": deployment})}


def keep(tx: sa.Connection, deployment: str, memory: Mapping[str, Mapping[str, Any]], now: datetime) -> None:
    """Remember these instead of what was remembered; what other policies remember stays."""
    for policy, values in memory.items():
        row = {"memory": values, "updated_at": now}
        if not tx.execute(HELD, row | {"whose": deployment, "which": policy}).rowcount:
            tx.execute(INSERT, row | {"deployment": deployment, "policy": policy})
