"""The items of batches: the SQL of `items`.

An item waits, is leased under (owner, attempt), and is settled once:

    waiting -> leased            handed out, together with others
    suspect -> leased            handed out alone: it may be what breaks its replica
    leased  -> done | failed     acknowledged by the owner of this very attempt
    leased  -> waiting           given back, tried again later, or its owner is gone
    leased  -> suspect           it was sent and no answer came, or its owners keep dying
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from orchestrator.ledger import tables as t
from orchestrator.ledger.jobs import BATCH, OPEN, ItemState, State, unquoted

#: an item whose owner died this often while holding it is handed out alone from then on
DEATHS = 3
SETTLED = (ItemState.DONE, ItemState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An item in its owner's hands. (owner, attempt) is what an acknowledgement has to match."""

    job_id: int
    number: int
    name: str  # relative to the job's source, `/` between folders, file system bytes by surrogateescape
    attempt: int
    failures: int
    suspect: bool

    @property
    def key(self) -> tuple[int, int]:
        return self.job_id, self.number


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What an attempt led to, as its owner asks to have it recorded. `not_before` None: where it was in the queue."""

    item: Item
    state: ItemState
    failures: int
    error: str | None = None
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A settled item."""

    number: int
    name: str
    state: ItemState
    error: str | None


def leasable(tx: sa.Connection, job_id: int, now: datetime) -> frozenset[ItemState]:
    """Which queues of the job have an item that may be handed out now: WAITING, SUSPECT, both or none."""
    return frozenset(
        state
        for state in (ItemState.WAITING, ItemState.SUSPECT)
        if tx.execute(_queue(state), {"of_job": job_id, "now": now, "limit": 1}).first() is not None
    )


@lru_cache
def _lease(state: ItemState) -> sa.Executable:
    c = t.items.c
    return (
        t.items.update()
        .where(c.job_id == sa.bindparam("of_job"), c.number.in_(_queue(state)))
        .values(
            state=ItemState.LEASED,
            owner=sa.bindparam("for_owner"),
            attempt=c.attempt + 1,
            leased_until=sa.bindparam("until"),
        )
        .returning(c.number, c.path, c.attempt, c.failures)
    )


def lease(
    tx: sa.Connection,
    job_id: int,
    owner: str,
    limit: int,
    now: datetime,
    until: datetime,
    *,
    suspects: bool = False,
) -> list[Item]:
    """Hand out up to `limit` items of a running job, first come first. A job that is not running hands out none."""
    asked = {"of_job": job_id, "now": now, "limit": limit, "for_owner": owner, "until": until}
    taken = tx.execute(_lease(ItemState.SUSPECT if suspects else ItemState.WAITING), asked)
    found = [
        Item(
            job_id=job_id,
            number=row.number,
            name=unquoted(row.path),
            attempt=row.attempt,
            failures=row.failures,
            suspect=suspects,
        )
        for row in taken
    ]
    return sorted(found, key=lambda item: item.number)


@lru_cache
def _held(lock: bool) -> sa.Select[Any]:
    c = t.items.c
    between = c.number.between(sa.bindparam("first"), sa.bindparam("last"))
    query = sa.select(c.job_id, c.number, c.attempt).where(
        c.job_id == sa.bindparam("of_job"), c.state == ItemState.LEASED, c.owner == sa.bindparam("by_owner"), between
    )
    return query.with_for_update() if lock else query


def held(tx: sa.Connection, owner: str, items: Iterable[Item], *, lock: bool = False) -> frozenset[tuple[int, int]]:
    """The keys of those items that `owner` still holds by these very attempts; `lock` keeps it so until tx ends."""
    asked = {(item.job_id, item.number, item.attempt) for item in items}
    found: set[tuple[int, int, int]] = set()
    for job_id in sorted({key[0] for key in asked}):
        numbers = [key[1] for key in asked if key[0] == job_id]
        among: dict[str, object] = {"of_job": job_id, "by_owner": owner, "first": min(numbers), "last": max(numbers)}
        found |= {(row[0], row[1], row[2]) for row in tx.execute(_held(lock), among)}
    return frozenset((job_id, number) for job_id, number, _ in asked & found)


MINE = t.items.update().where(
    t.items.c.job_id == sa.bindparam("of_job"),
    t.items.c.number == sa.bindparam("of_number"),
    t.items.c.attempt == sa.bindparam("of_attempt"),
    t.items.c.owner == sa.bindparam("by_owner"),
    t.items.c.state == ItemState.LEASED,
)


def renew(tx: sa.Connection, owner: str, items: Iterable[Item], until: datetime) -> None:
    """Hold items for longer; those that are no longer the owner's are left alone."""
    rows = [_fence(item, owner) | {"leased_until": until} for item in items]
    if rows:
        tx.execute(MINE, rows)


def settle(tx: sa.Connection, owner: str, steps: Iterable[Step], now: datetime) -> tuple[Step, ...]:
    """Record what attempts led to and return the steps that counted.

    A step whose attempt is no longer the owner's changes nothing: the item is somebody else's, or its job is cancelled.
    """
    asked: dict[tuple[int, int], Step] = {}
    for step in steps:
        asked.setdefault(step.item.key, step)
    mine = held(tx, owner, (step.item for step in asked.values()), lock=True)
    counted = tuple(step for step in asked.values() if step.item.key in mine)
    if not counted:
        return ()
    _record(tx, owner, counted, now)
    c = t.jobs.c
    for job_id in sorted({step.item.job_id for step in counted}):
        of_job = [step.state for step in counted if step.item.job_id == job_id]
        grown = {"done": c.done + of_job.count(ItemState.DONE), "failed": c.failed + of_job.count(ItemState.FAILED)}
        tx.execute(t.jobs.update().where(c.id == job_id).values(grown))
    return counted


def given_back(items: Iterable[Item]) -> tuple[Step, ...]:
    """The steps that put items back where they came from, nothing held against them."""
    return tuple(
        Step(item=item, state=ItemState.SUSPECT if item.suspect else ItemState.WAITING, failures=item.failures)
        for item in items
    )


RECLAIM = (
    t.items.update()
    .where(t.items.c.job_id.in_(sa.select(t.jobs.c.id).where(t.jobs.c.state.in_(OPEN))))
    .where(t.items.c.state == ItemState.LEASED)
    .where(sa.or_(t.items.c.owner < sa.bindparam("oldest"), t.items.c.leased_until < sa.bindparam("now")))
    .values(
        state=sa.case((t.items.c.attempt >= DEATHS, ItemState.SUSPECT), else_=ItemState.WAITING),
        owner=None,
        leased_until=None,
    )
)


def reclaim(tx: sa.Connection, before: str, now: datetime) -> int:
    """Free the items of owners that sort below `before` (an older generation) and those whose lease ran out."""
    return tx.execute(RECLAIM, {"oldest": before, "now": now}).rowcount


def outcomes(tx: sa.Connection, job_id: int, after: int, limit: int = BATCH) -> list[Outcome]:
    """The settled items numbered above `after`, in order, at most `limit` of them."""
    c = t.items.c
    query = (
        sa.select(c.number, c.path, c.state, c.error)
        .where(c.job_id == job_id, c.number > after, c.state.in_(SETTLED))
        .order_by(c.number)
        .limit(limit)
    )
    return [
        Outcome(number=row.number, name=unquoted(row.path), state=ItemState(row.state), error=row.error)
        for row in tx.execute(query)
    ]


@lru_cache
def _queue(state: ItemState) -> sa.Select[tuple[int]]:
    c, of_job = t.items.c, sa.bindparam("of_job", type_=sa.Integer)
    running = sa.exists().where(t.jobs.c.id == of_job, t.jobs.c.state == State.RUNNING)
    return (
        sa.select(c.number)
        .where(c.job_id == of_job, c.state == state, c.not_before <= sa.bindparam("now"), running)
        .order_by(c.not_before, c.number)
        .limit(sa.bindparam("limit"))
    )


def _fence(item: Item, owner: str) -> dict[str, object]:
    return {"of_job": item.job_id, "of_number": item.number, "of_attempt": item.attempt, "by_owner": owner}


RECORD = MINE.values(
    state=sa.bindparam("to_state"),
    owner=None,
    leased_until=None,
    failures=sa.bindparam("to_failures"),
    error=sa.bindparam("to_error"),
    settled_at=sa.bindparam("to_settled_at"),
    not_before=sa.func.coalesce(sa.bindparam("to_not_before", type_=t.Moment), t.items.c.not_before),
)


def _record(tx: sa.Connection, owner: str, steps: Iterable[Step], now: datetime) -> None:
    rows = [
        _fence(step.item, owner)
        | {
            "to_state": step.state,
            "to_failures": step.failures,
            "to_error": step.error,
            "to_settled_at": now if step.state in SETTLED else None,
            "to_not_before": step.not_before,
        }
        for step in steps
    ]
    tx.execute(RECORD, rows)
