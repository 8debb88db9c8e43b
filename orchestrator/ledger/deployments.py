"""Specs being kept true: the SQL of `deployments` and of the per-minute `loads`."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from orchestrator.ledger import tables as t

LOAD_KEY = ["deployment", "instance_id", "at"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One row of `deployments`."""

    name: str
    spec: str
    source: str
    version: int
    wanted: str  # up | down
    override_state: str | None
    override_until: datetime | None
    created_at: datetime
    updated_at: datetime


KNOWN = sa.select(t.deployments).order_by(t.deployments.c.name)
NAMED = sa.select(t.deployments).where(t.deployments.c.name == sa.bindparam("name"))


def known(tx: sa.Connection) -> tuple[Deployment, ...]:
    """All deployments ever put up, by name."""
    return tuple(Deployment(**row._mapping) for row in tx.execute(KNOWN))


def get(tx: sa.Connection, name: str) -> Deployment | None:
    """The deployment of that name, or None."""
    row = tx.execute(NAMED, {"name": name}).first()
    return None if row is None else Deployment(**row._mapping)


def put_up(tx: sa.Connection, name: str, spec: str, source: str, now: datetime) -> int:
    """Keep this spec true from now on. Returns its version, which grows when the text has changed."""
    before = get(tx, name)
    if before is None:
        row = {
            "name": name,
            "spec": spec,
            "source": source,
            "version": 1,
            "wanted": "up",
            "created_at": now,
            "updated_at": now,
        }
        tx.execute(t.deployments.insert().values(row))
        return 1
    version = before.version + (before.spec != spec)
    values = {"spec": spec, "source": source, "version": version, "wanted": "up", "updated_at": now}
    tx.execute(t.deployments.update().where(t.deployments.c.name == name).values(values))
    return version


def take_down(tx: sa.Connection, name: str, now: datetime) -> None:
    """Want the deployment gone. Its machines drain and end in the next ticks."""
    tx.execute(t.deployments.update().where(t.deployments.c.name == name).values(wanted="down", updated_at=now))


def override(tx: sa.Connection, name: str, state: str | None, until: datetime | None, now: datetime) -> None:
    """Hold a deployment open or closed until a time; None lifts it."""
    values = {"override_state": state, "override_until": until, "updated_at": now}
    tx.execute(t.deployments.update().where(t.deployments.c.name == name).values(values))


def record_loads(tx: sa.Connection, minutes: Iterable[Mapping[str, Any]]) -> None:
    """Write per-minute demand. A minute that is told again replaces what was told, but never by less: a door that was
    restarted within the minute has forgotten its first part.
    """
    alike: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for minute in minutes:
        alike.setdefault(tuple(minute), []).append(minute)
    for columns, rows in alike.items():
        tx.execute(_told_again(tx.dialect.name, columns), rows)


@lru_cache
def _told_again(dialect: str, columns: tuple[str, ...]) -> sa.Executable:
    postgresql = dialect == "postgresql"
    statement = (postgresql_insert if postgresql else sqlite_insert)(t.loads)
    greatest = sa.func.greatest if postgresql else sa.func.max
    old, new = t.loads.c, statement.excluded
    measures = [name for name in columns if name not in LOAD_KEY]
    most = {
        name: greatest(sa.func.coalesce(old[name], new[name]), sa.func.coalesce(new[name], old[name]))
        for name in measures
    }
    return statement.on_conflict_do_update(index_elements=LOAD_KEY, set_=most)


LOAD_MINUTES = (
    sa.select(t.loads.c.at, sa.func.sum(t.loads.c.images + t.loads.c.failed + t.loads.c.refused))
    .where(t.loads.c.deployment == sa.bindparam("deployment"), t.loads.c.at >= sa.bindparam("since"))
    .group_by(t.loads.c.at)
)
ASKED = (
    sa.select(t.loads.c.at, t.loads.c.requests)
    .where(t.loads.c.deployment == sa.bindparam("deployment"), t.loads.c.instance_id == "")
    .where(t.loads.c.at.in_(sa.bindparam("minutes", expanding=True)))
)


def load_minutes(tx: sa.Connection, deployment: str, since: datetime) -> dict[datetime, int]:
    """Images asked for in each minute since `since` (served, failed and refused), minutes without evidence left out."""
    rows = tx.execute(LOAD_MINUTES, {"deployment": deployment, "since": since})
    return {at: int(images) for at, images in rows}


def asked(tx: sa.Connection, deployment: str, minutes: Collection[datetime]) -> dict[datetime, int]:
    """Requests that came in each of these minutes, those without evidence left out."""
    rows = tx.execute(ASKED, {"deployment": deployment, "minutes": list(minutes)})
    return {row.at: row.requests for row in rows}


def totals(tx: sa.Connection, deployment: str) -> tuple[int, int]:
    """Images read and images refused, over all time."""
    c = t.loads.c
    row = tx.execute(sa.select(sa.func.sum(c.images), sa.func.sum(c.refused)).where(c.deployment == deployment)).one()
    return int(row[0] or 0), int(row[1] or 0)
