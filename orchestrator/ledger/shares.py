"""What a job's share of its deployment's cost is reckoned by, and where that is noted."""

from datetime import datetime

import sqlalchemy as sa

from orchestrator.ledger import tables as t
from orchestrator.ledger.jobs import Job

IMAGES = sa.select(sa.func.coalesce(sa.func.sum(t.loads.c.images), 0)).where(
    t.loads.c.deployment == sa.bindparam("deployment"),
    t.loads.c.at >= sa.bindparam("start"),
    t.loads.c.at < sa.bindparam("end"),
)
SETTLED_WITHIN = sa.select(sa.func.count()).where(
    t.items.c.job_id == sa.bindparam("job"),
    t.items.c.settled_at >= sa.bindparam("start"),
    t.items.c.settled_at < sa.bindparam("end"),
)


def images(tx: sa.Connection, deployment: str, start: datetime, end: datetime) -> int:
    """Images that a deployment has read for anybody in the minutes that begin within [start, end)."""
    minute = start.replace(second=0, microsecond=0)
    return int(tx.execute(IMAGES, {"deployment": deployment, "start": minute, "end": end}).scalar_one())


def settled(tx: sa.Connection, job_id: int, start: datetime, end: datetime) -> int:
    """Items of a job that were settled within [start, end)."""
    return int(tx.execute(SETTLED_WITHIN, {"job": job_id, "start": start, "end": end}).scalar_one())


def charge(tx: sa.Connection, job: Job, micros: int, unpriced: bool, until: datetime) -> None:
    """Note what `job` has cost from its `costed_at` on, unless somebody else has noted it by now."""
    c = t.jobs.c
    same = c.costed_at.is_(None) if job.costed_at is None else c.costed_at == job.costed_at
    grown = {"cost_micros": c.cost_micros + micros, "unpriced": job.unpriced or unpriced, "costed_at": until}
    tx.execute(t.jobs.update().where(c.id == job.id, same).values(grown))
