"""What replicas were seen to read while they were busy: the SQL behind a profile that nobody had to make."""

from datetime import datetime

import sqlalchemy as sa

from orchestrator.ledger import tables as t

#: a replica whose requests together took this much of a minute had hardly a moment to spare (Little's law)
BUSY_MS = 0.9 * 60_000


def busy_minutes(tx: sa.Connection, deployment: str, gpu: str, until: datetime) -> list[tuple[int, float | None]]:
    """Images, and p95 latency in ms, of each minute before `until` in which a replica on this GPU was always busy."""
    c, i = t.loads.c, t.instances.c
    query = sa.select(c.images, c.latency_ms_p95).join(t.instances, i.id == c.instance_id)
    query = query.where(c.deployment == deployment, i.gpu == gpu, c.at < until, c.images > 0)
    return [(row.images, row.latency_ms_p95) for row in tx.execute(query.where(c.latency_ms_sum >= BUSY_MS))]
