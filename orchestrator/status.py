"""What `halve status` shows, as JSON values."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from orchestrator import owned, spec
from orchestrator.arrivals import HOUR, left_alone_until, resting_spot, resumes_at
from orchestrator.budget_words import standing
from orchestrator.deployment import policy_of
from orchestrator.door.client import Door
from orchestrator.doorway import published
from orchestrator.errors import Refused
from orchestrator.holder import is_alive
from orchestrator.ledger import backup, beliefs, deployments, fleet, leases, offers, pools, ticks
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.store import Ledger, Transaction
from orchestrator.spending import spend
from policies import windows
from policies.policy import Policy
from policies.pools import LONGEST_AFTER_LOSS_SECONDS
from policies.snapshot import Purchase

#: what is said of a machine that has a `reclaim_at`, and of one that has a `rebalance_at`, wherever machines are listed
TAKEN_BACK = "taken back {at}"
LEAVING_RECOMMENDED = "leaving recommended since {at}"
LONGEST_AFTER_LOSS = timedelta(seconds=LONGEST_AFTER_LOSS_SECONDS)


def status(home: Path, ledger: Ledger, now: datetime) -> dict[str, Any]:
    """The daemon and every deployment that is wanted or still costs money, in the shape of DESIGN §7."""
    with ledger.read() as tx:
        lease = leases.held(tx)
        rows = deployments.known(tx)
        costing = fleet.costing(tx)
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
    return {
        "daemon": daemon,
        "backed_up_at": iso(backup.newest_at(home, now)),
        "deployments": [_deployment(home, ledger, row, now) for row in shown],
    }


def _deployment(home: Path, ledger: Ledger, row: Deployment, now: datetime) -> dict[str, Any]:
    with ledger.read() as tx:
        machines = fleet.machines(tx, row.name)
        tick = ticks.last(tx, row.name)
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
                "rebalance_at": iso(machine.rebalance_at),
            }
            for machine in machines
        ],
        "hosts": [],
        "spend": {"month_micros": None, "currency": None},
        "budgets": [],
        "launches": {"last_hour": None, "bound": None, "resumes_at": None},
        "left_alone": [],
        "ends_unseen": [],
    }
    try:
        wanted = spec.parse(row.spec, row.source)
        policy = policy_of(wanted, row, ledger)(now)
    except Refused as refusal:
        return {**shown, "notes": [str(refusal)]}
    process, served = Door(home, row.name).running(), published(home, row.name)
    with ledger.read() as tx:
        spent = spend(tx, row.name, now, policy)
        launches, left_alone = _launches(tx, row.name, policy, now), _left_alone(tx, row.name, now)
        ends_unseen = _ends_unseen(tx, row.name, policy, now)
        hosts = owned.shown(home, tx, wanted, policy.rates, _month(policy, now), now)
    return {
        **shown,
        # what the door does is what counts: a spent budget closes it within its hours
        "open": served.open if process and served else policy.wanted and windows.bounds(policy.schedule, now).open,
        "next_edge_at": iso(windows.next_edge(policy.schedule, now)),
        "door": process.url if process is not None else None,
        "hosts": hosts,
        "spend": {
            "month_micros": None if spent.unknown_hours and not spent.month_micros else spent.month_micros,
            "currency": spent.currency or None,
            "unknown_hours": round(spent.unknown_hours, 3),
        },
        "budgets": standing(policy.limit, spent),
        "launches": launches,
        "left_alone": left_alone,
        "ends_unseen": ends_unseen,
    }


def _launches(tx: Transaction, deployment: str, policy: Policy, now: datetime) -> dict[str, Any]:
    """The runaway bound, and how much of it is used up; once it is, when the next launch may be."""
    recent = [at for at in fleet.launches_since(tx, deployment, now - HOUR) if at <= now]
    bound = policy.launches_per_hour(windows.bounds(policy.schedule, now).max)
    return {"last_hour": len(recent), "bound": bound, "resumes_at": iso(resumes_at(recent, policy, now))}


def _ends_unseen(tx: Transaction, deployment: str, policy: Policy, now: datetime) -> list[dict[str, Any]]:
    """This month's machines of whose end the provider said nothing any more: until when each is booked, if at all."""
    return [
        {
            "instance": one.id,
            "booked_until": None if one.launched_at is None else iso(one.ended_at or one.missing_since),
        }
        for one in fleet.unseen_ends(tx, deployment, _month(policy, now))
    ]


def _month(policy: Policy, now: datetime) -> datetime:
    return now.astimezone(policy.schedule.zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _left_alone(tx: Transaction, deployment: str, now: datetime) -> list[dict[str, Any]]:
    """Offers that are not asked for a while, and why; those that may be asked soonest first."""
    words = pools.refusals(tx, deployment)
    resting = resting_spot(beliefs.known(tx, deployment).get("placement", {}))
    found: list[tuple[datetime, dict[str, Any]]] = []
    for offer in offers.known(tx):
        refused = offer.refused_at is not None and offer.id in words
        until = left_alone_until(offer, resting, now) if refused or offer.purchase is Purchase.SPOT else None
        if until is None or until <= now:
            continue
        lost = offer.lost_at is not None and (offer.refused_at is None or offer.refused_at < offer.lost_at)
        why = "its provider recommends to leave it"
        if refused and not lost:
            why = f"refused {offer.refusals} time{'s' * (offer.refusals != 1)}: {words[offer.id]}"
        elif offer.lost_at is not None and now - offer.lost_at < LONGEST_AFTER_LOSS:
            why = "it took a machine back"
        found.append((until, {"offer": offer.id, "until": iso(until), "refusals": offer.refusals, "why": why}))
    return [shown for _, shown in sorted(found, key=lambda one: (one[0], one[1]["offer"]))]


def iso(at: datetime | None) -> str | None:
    """A moment as the JSON contracts write it: `2026-03-29T01:00:00Z`."""
    return None if at is None else at.isoformat(timespec="seconds").replace("+00:00", "Z")
