"""Actions decided, and whether they were carried out: the SQL of `intents`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from orchestrator.ledger import tables as t

#: between attempts to carry out one intent
FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """One row of `intents`: an action decided, and whether it was carried out."""

    id: int
    deployment: str
    kind: str
    instance_id: str
    token: str
    payload: Mapping[str, Any]
    reason: str
    opened_at: datetime
    attempted_at: datetime | None
    attempts: int

    def due(self, now: datetime) -> bool:
        """Whether to try now: at once, then 1, 2, 4 ... and at last 30 s after each attempt."""
        if self.attempted_at is None or now < self.attempted_at:
            return True
        return now - self.attempted_at >= min(FIRST_PAUSE * (1 << min(self.attempts - 1, 16)), LONGEST_PAUSE)


UNDER_WAY = (
    sa.select(*(t.intents.c[one.name] for one in fields(Intent)))
    .where(t.intents.c.deployment == sa.bindparam("deployment"), t.intents.c.state == "open")
    .order_by(t.intents.c.id)
)


def under_way(tx: sa.Connection, deployment: str) -> tuple[Intent, ...]:
    """Everything decided and not settled, oldest first."""
    return tuple(Intent(**row._mapping) for row in tx.execute(UNDER_WAY, {"deployment": deployment}))


DECIDED = (
    sa.select(t.intents.c.kind, t.intents.c.instance_id, t.intents.c.state, t.intents.c.opened_at)
    .where(t.intents.c.deployment == sa.bindparam("deployment"))
    .order_by(t.intents.c.id)
)


def decided(tx: sa.Connection, deployment: str) -> Sequence[Any]:
    """Everything that was ever decided about a deployment's machines: kind, instance, state, and when."""
    return tx.execute(DECIDED, {"deployment": deployment}).all()


INSERT = t.intents.insert().returning(t.intents.c.id)


def insert(
    tx: sa.Connection,
    deployment: str,
    tick_id: int,
    kind: str,
    instance_id: str,
    payload: Mapping[str, Any],
    reason: str,
    now: datetime,
) -> int:
    """Write down that something is to be done. Returns its number; a launch has its machine and its token only then."""
    row = {
        "deployment": deployment,
        "tick_id": tick_id,
        "kind": kind,
        "instance_id": instance_id,
        "payload": payload,
        "reason": reason,
        "state": "open",
        "opened_at": now,
    }
    return int(tx.execute(INSERT, row).scalar_one())


NAME = t.intents.update().where(t.intents.c.id == sa.bindparam("intent"))


def name(tx: sa.Connection, intent_id: int, machine_id: str, token: str) -> None:
    """Say which machine a launch is of, and by which token its provider knows it."""
    tx.execute(NAME, {"intent": intent_id, "instance_id": machine_id, "token": token})


ATTEMPTED = (
    t.intents.update()
    .where(t.intents.c.id == sa.bindparam("intent"))
    .values(attempts=t.intents.c.attempts + 1, attempted_at=sa.bindparam("now"), error=sa.bindparam("why"))
)
SETTLE = ATTEMPTED.where(t.intents.c.state == "open").values(
    state=sa.bindparam("outcome"), settled_at=sa.bindparam("now")
)


def settle(tx: sa.Connection, intent_id: int, state: str, *, now: datetime, error: str | None = None) -> None:
    """Close an intent as done, failed or void."""
    tx.execute(SETTLE, {"intent": intent_id, "outcome": state, "now": now, "why": error})


def attempted(tx: sa.Connection, intent_id: int, *, now: datetime, error: str | None) -> None:
    """Note a call that settled nothing; the intent stays open and the call is repeated."""
    tx.execute(ATTEMPTED, {"intent": intent_id, "now": now, "why": error})


SETTLE_ALL = t.intents.update().where(t.intents.c.instance_id == sa.bindparam("machine"), t.intents.c.state == "open")


def settle_all(tx: sa.Connection, machine_id: str, now: datetime) -> None:
    """A machine that is over has nothing left to be done to it."""
    tx.execute(SETTLE_ALL, {"machine": machine_id, "state": "done", "settled_at": now})
