"""Rows for a ledger that a report is made of, written the short way."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import sqlalchemy as sa

from orchestrator.ledger import tables as t
from orchestrator.ledger.store import Ledger, open_ledger


def utc(text: str) -> datetime:
    """'2026-10-01' or '2026-10-01 08:30', UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


NEW_YEAR = utc("2026-01-01")


class Rows:
    """Writes rows of one ledger; every machine gets its deployment, tick and intent."""

    def __init__(self, ledger: Ledger, first: int = 1) -> None:
        self.ledger = ledger
        self._numbers = count(first)

    def deployment(self, name: str, spec: str = "", at: datetime = NEW_YEAR, down_at: datetime | None = None) -> None:
        row = {
            "name": name, "spec": spec, "source": f"{name}.yaml", "version": 1, "created_at": at,
            "wanted": "down" if down_at else "up", "updated_at": down_at or at,
        }  # fmt: skip
        with self._writing() as tx:
            tx.execute(t.deployments.insert().values(row))

    def machine(
        self,
        deployment: str = "ocr",
        gpu: str = "RTX 3060",
        purchase: str = "on_demand",
        provider: str = "simulated",
        ready: tuple[datetime, datetime | None] | None = None,
        zone: str = "",
    ) -> str:
        """Returns its id."""
        number = next(self._numbers)
        at = ready[0] if ready else utc("2026-01-01")
        machine_id = f"{deployment}-{number}"
        with self._writing() as tx:
            if tx.execute(sa.select(t.deployments).where(t.deployments.c.name == deployment)).first() is None:
                row = {"name": deployment, "spec": "", "source": "", "version": 1, "wanted": "up"}
                tx.execute(t.deployments.insert().values(row | {"created_at": at, "updated_at": at}))
            tick = {"deployment": deployment, "at": at, "target": 1, "reason": "", "plan": {"actions": [], "notes": []}}
            tick_id = tx.execute(t.ticks.insert().values(tick)).inserted_primary_key[0]  # type: ignore[index]
            intent = {"deployment": deployment, "tick_id": tick_id, "kind": "launch", "instance_id": machine_id}
            intent |= {"payload": {}, "reason": "", "state": "done", "opened_at": at}
            intent_id = tx.execute(t.intents.insert().values(intent)).inserted_primary_key[0]  # type: ignore[index]
            row = {
                "id": machine_id, "deployment": deployment, "intent_id": intent_id, "token": f"t{number}",
                "provider": provider, "offer_id": "o", "zone": zone, "instance_type": "", "gpu": gpu,
                "purchase": purchase, "digest": "", "status": "ready", "requested_at": at,
                "ready_at": ready[0] if ready else None, "ended_at": ready[1] if ready else None,
            }  # fmt: skip
            tx.execute(t.instances.insert().values(row))
        return machine_id

    def charge(
        self,
        machine_id: str,
        start: datetime,
        end: datetime | None,
        price: int | None,
        currency: str = "CNY",
        *,
        kind: str = "compute",
        amount: int | None = None,
    ) -> None:
        """`price` in micro-units per hour; None: unknown. `amount`: a correction, booked at `start`."""
        with self._writing() as tx:
            machine = tx.execute(sa.select(t.instances).where(t.instances.c.id == machine_id)).one()
            row = {
                "instance_id": machine_id, "deployment": machine.deployment, "kind": kind, "gpu": machine.gpu,
                "purchase": machine.purchase, "price_per_hour_micros": price, "started_at": start, "ended_at": end,
                "currency": currency if price is not None or amount is not None else "", "amount_micros": amount,
            }  # fmt: skip
            tx.execute(t.charges.insert().values(row))

    def images(self, machine_id: str, at: datetime, images: int) -> None:
        with self._writing() as tx:
            deployment = tx.scalars(sa.select(t.instances.c.deployment).where(t.instances.c.id == machine_id)).one()
            row = {"deployment": deployment, "instance_id": machine_id, "at": at, "images": images}
            tx.execute(t.loads.insert().values(row))

    def ticks(self, deployment: str, start: datetime, end: datetime, every: timedelta) -> None:
        rows = []
        while start < end:
            tick = {"deployment": deployment, "at": start, "target": 1, "reason": ""}
            rows.append(tick | {"plan": {"actions": [], "notes": []}})
            start += every
        with self._writing() as tx:
            tx.execute(t.ticks.insert(), rows)

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self.ledger.write() as tx:
            yield tx


def rows_in(home: Path) -> Rows:
    return Rows(open_ledger(home))
