"""The lease of the one daemon that may act, with its generation: the fence of a stale one."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from orchestrator.ledger import tables as t

NAME = "daemon"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Who may act, until when, and how its ticks go."""

    name: str
    owner: str
    pid: int
    generation: int
    expires_at: datetime
    last_tick_at: datetime | None  # when the last tick began: it has seen everything that was written before
    tick_errors: int  # how many ticks of this daemon failed
    last_error: str | None  # with its time


HELD = sa.select(t.lease).where(t.lease.c.name == NAME)
CHANGE = t.lease.update().where(t.lease.c.name == NAME)


def held(tx: sa.Connection) -> Lease | None:
    """The lease as it stands, expired or not."""
    row = tx.execute(HELD).first()
    return None if row is None else Lease(**row._mapping)


def take(tx: sa.Connection, owner: str, pid: int, expires_at: datetime) -> int:
    """Take the lease and return the new generation. Whether it may be taken the caller knows, from this transaction."""
    before = held(tx)
    generation = 1 if before is None else before.generation + 1
    values = {
        "owner": owner,
        "pid": pid,
        "generation": generation,
        "expires_at": expires_at,
        "last_tick_at": None,
        "tick_errors": 0,
        "last_error": None,
    }
    if before is None:
        tx.execute(t.lease.insert().values(name=NAME, **values))
    else:
        tx.execute(CHANGE, values)
    return generation


def renew(tx: sa.Connection, expires_at: datetime) -> None:
    """Hold it for longer. The ledger's fence refuses this once another daemon has it."""
    tx.execute(CHANGE, {"expires_at": expires_at})


def ticked(tx: sa.Connection, started_at: datetime, error: str | None) -> None:
    """Note that a tick ended, when it began, and how it went."""
    values: dict[str, object] = {"last_tick_at": started_at}
    if error is not None:
        said = f"{started_at:%Y-%m-%d %H:%M:%S} UTC {error}"
        values |= {"tick_errors": t.lease.c.tick_errors + 1, "last_error": said}
    tx.execute(CHANGE.values(values))


def give_up(tx: sa.Connection, now: datetime) -> None:
    """Let the next daemon in at once."""
    tx.execute(CHANGE, {"expires_at": now})
