"""How a real deployment stands: its ledger, its spec and its door as a sight for the invariants."""

from datetime import datetime
from pathlib import Path

from orchestrator import spec
from orchestrator.deployment import policy_of
from orchestrator.doorway import published
from orchestrator.errors import Refused
from orchestrator.invariants import LOOKED_AT, Sight
from orchestrator.ledger import deployments, fleet
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.store import Ledger
from policies import windows

#: a daemon that is alive ticks at least this often, and a listing is this late at most
TICK_SECONDS, LISTING_SECONDS = 60.0, 60.0


def troubles(home: Path, ledger: Ledger, now: datetime) -> dict[str, list[str]]:
    """Every invariant that a real ledger can be asked, by its name, with what breaks it. Empty lists: all is well."""
    found: dict[str, list[str]] = {invariant.__name__: [] for invariant in LOOKED_AT}
    with ledger.read() as tx:
        rows = deployments.known(tx)
        costing = {machine.deployment for machine in fleet.machines(tx)}
    for row in rows:
        if row.wanted == "up" or row.name in costing:
            try:
                sight = looked_at(home, ledger, row, now)
            except Refused:
                continue  # a spec that no longer parses: `halve status` says so
            for invariant in LOOKED_AT:
                found[invariant.__name__] += [f"{row.name}: {words}" for words in invariant(sight)]
    return found


def looked_at(home: Path, ledger: Ledger, row: Deployment, now: datetime) -> Sight:
    """One deployment as its ledger has it. Raises Refused for a spec that no longer parses."""
    policy = policy_of(spec.parse(row.spec, row.source), row, ledger)(now)
    with ledger.read() as tx:
        machines = fleet.machines(tx, row.name)
        intents = fleet.intents(tx, row.name)
        tick = fleet.last_tick(tx, row.name)
        held = fleet.target_since(tx, row.name)
    bounds = windows.bounds(policy.schedule, now)
    return Sight(
        now=now,
        local_now=now,
        tick_seconds=TICK_SECONDS,
        listing_seconds=LISTING_SECONDS,
        machines=machines,
        charges={},
        intents=intents,
        launched={one.token: one.launched_at for one in machines if one.launched_at is not None},
        ended={one.token: one.ended_at for one in machines if one.ended_at is not None},
        meter={},
        serving=published(home, row.name),
        policy=policy,
        digest="",
        target=0 if tick is None or tick.plan["notes"] else tick.target,
        target_since=held,
        unwanted_since=held if tick is not None and tick.target == 0 else None,
        most=max(bounds.max, policy.schedule.max),
    )
