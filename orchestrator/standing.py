"""How a real deployment stands: its ledger, its spec and its door as a sight for the invariants."""

from datetime import datetime, timedelta
from pathlib import Path

from orchestrator import spec
from orchestrator.deployment import policy_of
from orchestrator.door.client import Door
from orchestrator.doorway import published
from orchestrator.errors import Refused
from orchestrator.holder import is_alive
from orchestrator.invariants import LOOKED_AT, Sight
from orchestrator.ledger import deployments, fleet, intents, leases, ticks
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.store import Ledger

#: a daemon that is alive ticks at least this often, and a listing is this late at most
TICK_SECONDS, LISTING_SECONDS = 60.0, 60.0
#: notes that stand in nobody's way
HARMLESS = (": warn", "of unknown price")


def findings(home: Path, ledger: Ledger, now: datetime) -> dict[str, list[str]]:
    """Every invariant that a real ledger can be asked, by its name, with what breaks it. Empty lists: all is well.

    Only a daemon that is alive and has seen the present spec can be held to it; `somebody_ticks` says when none is.
    """
    found: dict[str, list[str]] = {invariant.__name__: [] for invariant in LOOKED_AT}
    found |= {"somebody_ticks": [], "every_spec_means_something": []}
    with ledger.read() as tx:
        rows, lease = deployments.known(tx), leases.held(tx)
        costing = fleet.costing(tx)
    for row in rows:
        if row.wanted != "up" and row.name not in costing:
            continue
        ticked_at = lease.last_tick_at if lease is not None and is_alive(lease, now) else None
        if ticked_at is None or now - ticked_at > timedelta(seconds=2 * TICK_SECONDS):
            since = "" if ticked_at is None else f" since {ticked_at:%Y-%m-%d %H:%M:%S} UTC"
            found["somebody_ticks"].append(f"{row.name}: no daemon has looked after it{since}; run halve daemon")
            continue
        try:
            sight = looked_at(home, ledger, row, ticked_at, now)
        except Refused as refusal:
            found["every_spec_means_something"].append(f"{row.name}: {refusal}")
            continue
        if ticked_at > row.updated_at:
            for invariant in LOOKED_AT:
                found[invariant.__name__] += [f"{row.name}: {words}" for words in invariant(sight)]
    return found


def looked_at(home: Path, ledger: Ledger, row: Deployment, ticked_at: datetime, now: datetime) -> Sight:
    """One deployment as its ledger has it, and what its last tick had to go by. Raises Refused for a broken spec."""
    policy = policy_of(spec.parse(row.spec, row.source), row, ledger)(ticked_at)
    serving = published(home, row.name) if Door(home, row.name).running() is not None else None
    with ledger.read() as tx:
        machines = fleet.machines(tx, row.name)
        decided = [one for one in intents.decided(tx, row.name) if one.opened_at > now - timedelta(hours=1)]
        tick = ticks.last(tx, row.name)
        held = ticks.target_since(tx, row.name)
        changed = fleet.last_end(tx, row.name)
    silent = tick is not None and all(note.endswith(HARMLESS) for note in tick.plan["notes"])
    moments = [at for at in (held, changed, row.updated_at) if at is not None]
    unwanted = row.updated_at if row.wanted != "up" else held if tick is not None and tick.target == 0 else None
    return Sight(
        now=now,
        local_now=ticked_at,
        tick_seconds=TICK_SECONDS,
        listing_seconds=LISTING_SECONDS,
        machines=machines,
        charges={},
        intents=decided,
        launched={one.token: one.launched_at for one in machines if one.launched_at is not None},
        ended={one.token: one.ended_at for one in machines if one.ended_at is not None},
        meter={},
        serving=serving,
        policy=policy,
        digest="",
        target=tick.target if tick is not None and silent else 0,
        target_since=max(moments),
        unwanted_since=unwanted,
        most=max([policy.schedule.max, *(window.max or 0 for window in policy.schedule.windows)]),
    )
