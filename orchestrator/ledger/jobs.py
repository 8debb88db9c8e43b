"""Batches: the SQL of `jobs`. Their work is in items.py."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

import sqlalchemy as sa

from orchestrator import s3
from orchestrator.ledger import tables as t
from policies.snapshot import JobState

#: rows per INSERT
BATCH = 10_000
#: the pace of a job is measured over this long
PACE_SECONDS = 60.0
MINUTE_MICROS = 60_000_000


class State(StrEnum):
    """Where a job stands."""

    RUNNING = "running"
    PAUSED = "paused"  # by its user, or by itself: then `resumes_at` says when it tries again
    DONE = "done"
    CANCELLED = "cancelled"


class ItemState(StrEnum):
    """Where an item stands; items.py has the moves."""

    WAITING = "waiting"
    SUSPECT = "suspect"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"


OPEN = (State.RUNNING, State.PAUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One row of `jobs`. `total` is how many items there are; `done` and `failed` are how many of them are settled."""

    id: int
    deployment: str
    source: Path | s3.Address  # what the names of its items are relative to
    destination: Path | s3.Address
    fields: tuple[str, ...]
    state: State
    reason: str
    resumes_at: datetime | None
    total: int
    done: int
    failed: int
    submitted_at: datetime
    finished_at: datetime | None
    deadline_at: datetime | None
    currency: str
    cost_micros: int  # its share of what its deployment cost while it ran, up to `costed_at`
    unpriced: bool  # part of that had no known price: it has cost more, nobody knows how much
    costed_at: datetime | None  # None: it has not run since it was submitted or went on
    budget_micros: int | None

    @property
    def left(self) -> int:
        return self.total - self.done - self.failed

    @property
    def spent(self) -> bool:
        """Whether it has cost as much as it may."""
        return self.budget_micros is not None and self.cost_micros >= self.budget_micros

    @property
    def cost_to_go_micros(self) -> int | None:
        """What the rest costs if an item costs what it did so far. None: nobody knows."""
        settled = self.done + self.failed
        if self.unpriced or not settled or not self.cost_micros:
            return None
        return self.cost_micros * self.left // settled


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is. `items_per_second` is of the last minute; None: nothing moved, which is not 0."""

    waiting: int
    leased: int
    done: int
    failed: int
    items_per_second: float | None

    @property
    def eta_seconds(self) -> float | None:
        left = self.waiting + self.leased
        return left / self.items_per_second if self.items_per_second else None


def quoted(name: str) -> str:
    """A file name as text that every database keeps: bytes that are not UTF-8 become JSON escapes."""
    return json.dumps(name)


def unquoted(text: str) -> str:
    return str(json.loads(text))


def place(text: str) -> Path | s3.Address:
    """A folder, or `s3://bucket/prefix`. Raises ValueError when that names no bucket."""
    return s3.Address.parse(text) if text.startswith(s3.SCHEME) else Path(text)


def create(
    tx: sa.Connection,
    deployment: str,
    source: Path | s3.Address,
    destination: Path | s3.Address,
    fields: Sequence[str],
    names: Sequence[str],
    now: datetime,
    deadline_at: datetime | None = None,
    *,
    currency: str = "",
    budget_micros: int | None = None,
) -> int:
    """Record a job with all its items, in the order of `names`; returns its id."""
    job = {
        "deployment": deployment,
        "source": quoted(str(source)),
        "destination": quoted(str(destination)),
        "fields": list(fields),
        "state": State.RUNNING,
        "total": len(names),
        "submitted_at": now,
        "deadline_at": deadline_at,
        "currency": currency,
        "budget_micros": budget_micros,
    }
    job_id = int(tx.execute(t.jobs.insert().values(job).returning(t.jobs.c.id)).scalar_one())
    same = {"job_id": job_id, "state": ItemState.WAITING, "not_before": now}
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        rows = [same | {"number": number, "path": quoted(name)} for number, name in enumerate(batch, start + 1)]
        tx.execute(t.items.insert(), rows)
    return job_id


BY_ID = sa.select(t.jobs).where(t.jobs.c.id == sa.bindparam("job"))
KNOWN = sa.select(t.jobs).order_by(t.jobs.c.id)
STILL_OPEN = KNOWN.where(t.jobs.c.state.in_(OPEN))


def get(tx: sa.Connection, job_id: int) -> Job | None:
    """The job of that number, or None."""
    row = tx.execute(BY_ID, {"job": job_id}).first()
    return None if row is None else _job(row)


def known(tx: sa.Connection, *, still_open: bool = False) -> tuple[Job, ...]:
    """All jobs, oldest first; or those that are neither done nor cancelled."""
    return tuple(_job(row) for row in tx.execute(STILL_OPEN if still_open else KNOWN))


LEFT = t.jobs.c.total - t.jobs.c.done - t.jobs.c.failed
PAUSED_UNTIL = sa.and_(t.jobs.c.state == State.PAUSED, t.jobs.c.resumes_at <= sa.bindparam("now"))
DEMAND = (
    sa.select(t.jobs.c.id, LEFT, t.jobs.c.deadline_at)
    .where(t.jobs.c.deployment == sa.bindparam("deployment"), LEFT > 0)
    .where(sa.or_(t.jobs.c.state == State.RUNNING, PAUSED_UNTIL))
    .order_by(t.jobs.c.id)
)


def demand(tx: sa.Connection, deployment: str, now: datetime) -> tuple[JobState, ...]:
    """The running jobs of a deployment that still want replicas, as a snapshot has them."""
    rows = tx.execute(DEMAND, {"deployment": deployment, "now": now})
    return tuple(JobState(id=row[0], items_left=row[1], deadline_at=row[2]) for row in rows)


DUE_LATELY = (
    sa.select(t.jobs.c.id)
    .where(t.jobs.c.deployment == sa.bindparam("deployment"), t.jobs.c.deadline_at.is_not(None))
    .where(sa.or_(t.jobs.c.finished_at.is_(None), t.jobs.c.finished_at >= sa.bindparam("since")))
)
OF_MINUTE = (sa.type_coerce(t.items.c.settled_at, sa.BigInteger) // MINUTE_MICROS).label("minute")
SETTLED_LATELY = (
    sa.select(OF_MINUTE, sa.func.count())
    .where(t.items.c.job_id.in_(sa.bindparam("due", expanding=True)), t.items.c.settled_at >= sa.bindparam("since"))
    .group_by(OF_MINUTE)
)


def read_lately(tx: sa.Connection, deployment: str, since: datetime) -> dict[datetime, int]:
    """Items of jobs with a deadline that were settled since then, by the minute: the door's load is partly theirs."""
    due = tx.scalars(DUE_LATELY, {"deployment": deployment, "since": since}).all()
    if not due:
        return {}
    counted = tx.execute(SETTLED_LATELY, {"due": due, "since": since})
    return {t.EPOCH + number * timedelta(minutes=1): count for number, count in counted}


def progress(tx: sa.Connection, job: Job, now: datetime) -> Progress:
    """How far `job` is, and at what pace it goes."""
    c = t.items.c
    leased = tx.execute(
        sa.select(sa.func.count()).where(c.job_id == job.id, c.state == ItemState.LEASED),
    ).scalar_one()
    since = now - timedelta(seconds=PACE_SECONDS)
    settled, first = tx.execute(
        sa.select(sa.func.count(), sa.func.min(c.settled_at)).where(c.job_id == job.id, c.settled_at > since),
    ).one()
    seconds = (now - first).total_seconds() if first is not None else 0.0
    return Progress(
        waiting=job.left - leased,
        leased=leased,
        done=job.done,
        failed=job.failed,
        items_per_second=(settled - 1) / seconds if settled > 1 and seconds > 0 else None,
    )


def pause(tx: sa.Connection, job_id: int, reason: str, resumes_at: datetime | None = None) -> bool:
    """Hand out no more of it. With `resumes_at` the job pauses itself, which never overrules its user's pause."""
    states = OPEN if resumes_at is None else (State.RUNNING,)
    return _set(tx, job_id, states, state=State.PAUSED, reason=reason, resumes_at=resumes_at)


def postpone(tx: sa.Connection, job_id: int, resumes_at: datetime) -> bool:
    """A job that paused itself tries again later than it meant to."""
    return _set(tx, job_id, (State.PAUSED,), t.jobs.c.resumes_at.is_not(None), resumes_at=resumes_at)


def resume(tx: sa.Connection, job_id: int, *, by_itself: bool = False) -> bool:
    """Go on with a paused job; `by_itself` only with one that had paused itself. The pause has cost it nothing."""
    whose = t.jobs.c.resumes_at.is_not(None) if by_itself else None
    return _set(tx, job_id, (State.PAUSED,), whose, state=State.RUNNING, reason="", resumes_at=None, costed_at=None)


def allow(tx: sa.Connection, job_id: int, budget_micros: int) -> bool:
    """Let it cost so much."""
    return _set(tx, job_id, OPEN, budget_micros=budget_micros)


def say(tx: sa.Connection, job_id: int, reason: str) -> bool:
    """Note why a running job does not move; empty when it does."""
    return _set(tx, job_id, (State.RUNNING,), reason=reason)


def cancel(tx: sa.Connection, job_id: int, now: datetime) -> bool:
    """End it where it is. What is under way is taken from its owner: no later acknowledgement counts."""
    ended = _set(tx, job_id, OPEN, state=State.CANCELLED, reason="", resumes_at=None, finished_at=now)
    if ended:
        c = t.items.c
        freed = {"state": ItemState.WAITING, "owner": None, "leased_until": None}
        tx.execute(t.items.update().where(c.job_id == job_id, c.state == ItemState.LEASED).values(freed))
    return ended


def finish(tx: sa.Connection, job_id: int, reason: str, now: datetime) -> bool:
    """Every item is settled and the results are assembled."""
    complete = t.jobs.c.done + t.jobs.c.failed >= t.jobs.c.total
    return _set(tx, job_id, (State.RUNNING,), complete, state=State.DONE, reason=reason, finished_at=now)


def _job(row: sa.Row[tuple[object, ...]]) -> Job:
    values = dict(row._mapping)
    values["source"] = place(unquoted(values["source"]))
    values["destination"] = place(unquoted(values["destination"]))
    values["fields"] = tuple(values["fields"])
    values["state"] = State(values["state"])
    return Job(**values)


def _set(
    tx: sa.Connection,
    job_id: int,
    states: Sequence[State],
    only: sa.ColumnElement[bool] | None = None,
    **values: object,
) -> bool:
    c = t.jobs.c
    changed = t.jobs.update().where(c.id == job_id, c.state.in_(states), sa.true() if only is None else only)
    return bool(tx.execute(changed.values(values)).rowcount)
