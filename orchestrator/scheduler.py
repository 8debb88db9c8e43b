"""One tick: observe, decide, record, act. Read this file first, then policies/decide.py.

Everything that can happen (a crash, a preemption, a price move, a closing window) is met by doing this once more.
"""

import logging
from datetime import datetime, timedelta

from orchestrator import act, lessons, observe, replay
from orchestrator.ledger import beliefs, fleet, intents, ticks
from orchestrator.ledger.store import Transaction
from orchestrator.world import World
from policies.decide import decide
from policies.plan import Launch, Plan
from policies.snapshot import Snapshot

log = logging.getLogger("halve.tick")

#: a quiet decision is written down at least this often: the evidence that somebody was watching
HEARTBEAT = timedelta(seconds=60)


def tick(world: World) -> Plan:
    """Bring the world one step closer to what the spec asks for. Raises Stale when another daemon took over."""
    seen = observe.look(world)
    with world.ledger.write() as tx:
        believed = observe.believe(tx, world, seen)
        # by what was seen a moment ago: a second tick on an unchanged world wishes for the same
        start_seconds = fleet.start_seconds(tx, world.deployment)
        policy = world.wishes(seen.at, start_seconds)
        lessons.pools(tx, believed, policy.patience, seen.at)
        lessons.gpus(tx, world, policy, believed.machines, seen.at)
        snapshot = observe.snapshot(tx, world, policy, seen, believed, start_seconds)
    plan = decide(snapshot, policy)
    _record(world, plan, snapshot)
    with world.ledger.read() as tx:
        under_way = intents.under_way(tx, world.deployment)
        machines = fleet.machines(tx, world.deployment) if plan.actions else believed.machines
    act.publish(world, plan, machines)  # the door withdraws before anything drains
    act.carry_out(world, under_way, machines, seen.unreachable)
    return plan


def _record(world: World, plan: Plan, snapshot: Snapshot) -> None:
    with world.ledger.read() as tx:
        quiet = not plan.actions and not _worth_noting(tx, plan, world.deployment, snapshot.now)
    if quiet and not plan.memory:
        return
    with world.ledger.write() as tx:
        beliefs.keep(tx, world.deployment, plan.memory, snapshot.now)
        if plan.actions:
            fleet.record(
                tx,
                world.ledger.key,
                world.deployment,
                plan,
                now=snapshot.now,
                digest=world.digest,
                payload=world.payload,
                snapshot=replay.to_json(snapshot),
            )
        elif not quiet:
            ticks.record(tx, world.deployment, plan, now=snapshot.now, snapshot=None)
    if quiet:
        return
    log.info(
        "deployment=%s target=%d (%s) spend=%.2f %s%s",
        world.deployment,
        plan.target.replicas,
        plan.target.reason,
        snapshot.spend.month_micros / 1e6,
        snapshot.spend.currency,
        "".join(f" note={note!r}" for note in plan.notes),
        extra={
            "deployment": world.deployment,
            "target": plan.target.replicas,
            "reason": plan.target.reason,
            "spend_micros": snapshot.spend.month_micros,
            "currency": snapshot.spend.currency,
            "notes": plan.notes,
        },
    )
    for action in plan.actions:
        kind = type(action).__name__.lower()
        about = {"deployment": world.deployment, "intent": kind, "reason": action.reason}
        what = {"offer": action.offer.id} if isinstance(action, Launch) else {"instance": action.instance_id}
        words = (world.deployment, kind, *what.values(), action.reason)
        log.info("deployment=%s %s %s (%s)", *words, extra=about | what)


def _worth_noting(tx: Transaction, plan: Plan, deployment: str, now: datetime) -> bool:
    last = ticks.last(tx, deployment)
    if last is None or not timedelta(0) <= now - last.at < HEARTBEAT:
        return True
    return bool((last.target, last.plan["notes"]) != (plan.target.replicas, list(plan.notes)))
