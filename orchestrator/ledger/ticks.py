"""Decisions: the SQL of `ticks`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from orchestrator.ledger import tables as t
from policies.plan import Launch, Plan

INSERT_TICK = t.ticks.insert().returning(t.ticks.c.id)


def record(tx: sa.Connection, deployment: str, plan: Plan, *, now: datetime, snapshot: Mapping[str, Any] | None) -> int:
    """One decision, whether or not it does anything. Returns its number."""
    actions = [
        {"kind": "launch", "offer": action.offer.id, "reason": action.reason}
        if isinstance(action, Launch)
        else {"kind": type(action).__name__.lower(), "instance": action.instance_id, "reason": action.reason}
        for action in plan.actions
    ]
    row = {
        "deployment": deployment,
        "at": now,
        "target": plan.target.replicas,
        "reason": plan.target.reason,
        "plan": {"actions": actions, "notes": list(plan.notes)},
        "snapshot": snapshot,
    }
    return int(tx.execute(INSERT_TICK, row).scalar_one())


#: not its snapshot: of a large fleet that is megabytes, and every tick looks at the last one
LAST_TICK = (
    sa.select(*(column for column in t.ticks.c if column.name != "snapshot"))
    .where(t.ticks.c.deployment == sa.bindparam("deployment"))
    .order_by(t.ticks.c.id.desc())
    .limit(1)
)


def last(tx: sa.Connection, deployment: str) -> sa.Row[Any] | None:
    """The newest decision about a deployment, without its snapshot."""
    return tx.execute(LAST_TICK, {"deployment": deployment}).first()


DECIDED = sa.select(t.ticks.c.at, t.ticks.c.target).where(t.ticks.c.deployment == sa.bindparam("deployment"))
DECIDED_SINCE = DECIDED.where(t.ticks.c.at > sa.bindparam("since")).order_by(t.ticks.c.id)
DECIDED_BEFORE = (
    DECIDED.where(t.ticks.c.at <= sa.bindparam("since")).order_by(t.ticks.c.at.desc(), t.ticks.c.id.desc()).limit(1)
)


def targets(tx: sa.Connection, deployment: str, since: datetime) -> tuple[tuple[datetime, int], ...]:
    """The targets decided since then, and the one that held until then, with their times; the oldest first."""
    asked = {"deployment": deployment, "since": since}
    rows = [*tx.execute(DECIDED_BEFORE, asked), *tx.execute(DECIDED_SINCE, asked)]
    return tuple((row.at, row.target) for row in rows)


def target_since(tx: sa.Connection, deployment: str) -> datetime | None:
    """Since when the last target has been decided without a break; None before the first tick."""
    c = t.ticks.c
    present = last(tx, deployment)
    if present is None:
        return None
    other = sa.select(sa.func.max(c.id)).where(c.deployment == deployment, c.target != present.target).scalar_subquery()
    later = sa.select(sa.func.min(c.at)).where(c.deployment == deployment, c.id > sa.func.coalesce(other, 0))
    found: datetime | None = tx.scalar(later)
    return found
