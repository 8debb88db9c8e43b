"""What `halve status` shows, as JSON values."""

from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator import observe, spec
from orchestrator.daemon import is_alive
from orchestrator.deployment import policy_of
from orchestrator.door.client import Door
from orchestrator.doorway import published
from orchestrator.errors import Refused
from orchestrator.ledger import deployments, fleet, leases
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.store import Ledger
from policies import windows


def status(home: Path, ledger: Ledger, now: datetime) -> dict[str, Any]:
    """The daemon and every deployment that is wanted or still costs money, in the shape of DESIGN §7."""
    with ledger.read() as tx:
        lease = leases.held(tx)
        rows = deployments.known(tx)
        costing = {machine.deployment for machine in fleet.machines(tx)}
    daemon: dict[str, Any] | None = None
    if lease is not None and is_alive(lease, now):
        daemon = {
            "pid": lease.pid,
            "generation": lease.generation,
            "last_tick_at": iso(lease.last_tick_at),
            "tick_errors": lease.tick_errors,
            "last_error": lease.last_error,
        }
    shown = [row for row in rows if row.wanted == "up" or row.name in costing]
    return {"daemon": daemon, "deployments": [_deployment(home, ledger, row, now) for row in shown]}


def _deployment(home: Path, ledger: Ledger, row: Deployment, now: datetime) -> dict[str, Any]:
    with ledger.read() as tx:
        machines = fleet.machines(tx, row.name)
        tick = fleet.last_tick(tx, row.name)
    shown: dict[str, Any] = {
        "name": row.name,
        "open": None,
        "next_edge_at": None,
        "target": tick.target if tick is not None else None,
        "reason": tick.reason if tick is not None else "",
        "notes": tick.plan["notes"] if tick is not None else [],
        "door": None,
        "instances": [
            {
                "id": machine.id,
                "provider": machine.provider,
                "gpu": machine.gpu,
                "purchase": str(machine.purchase),
                "status": str(machine.status),
                "reclaim_at": iso(machine.reclaim_at),
            }
            for machine in machines
        ],
        "spend": {"month_micros": None, "currency": None},
    }
    try:
        policy = policy_of(spec.parse(row.spec, row.source), row, ledger)(now)
    except Refused as refusal:
        return {**shown, "notes": [str(refusal)]}
    process, served = Door(home, row.name).running(), published(home, row.name)
    with ledger.read() as tx:
        spent = observe.spend(tx, row.name, now, policy)
    return {
        **shown,
        # what the door does is what counts: a spent budget closes it within its hours
        "open": served.open if process and served else policy.wanted and windows.bounds(policy.schedule, now).open,
        "next_edge_at": iso(windows.next_edge(policy.schedule, now)),
        "door": process.url if process is not None else None,
        "spend": {
            "month_micros": None if spent.unknown_hours and not spent.month_micros else spent.month_micros,
            "currency": spent.currency or None,
            "unknown_hours": round(spent.unknown_hours, 3),
        },
    }


def iso(at: datetime | None) -> str | None:
    """A moment as the JSON contracts write it: `2026-03-29T01:00:00Z`."""
    return None if at is None else at.isoformat(timespec="seconds").replace("+00:00", "Z")
