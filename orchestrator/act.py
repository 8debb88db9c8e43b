"""Open intents become calls, and their outcomes settle them: active. Every call may be repeated."""

from dataclasses import replace
from datetime import datetime, timedelta

from orchestrator.door import Replica, ServingSet
from orchestrator.ledger import fleet, offers
from orchestrator.ledger.fleet import Intent, Machine
from orchestrator.providers import (
    Misconfigured,
    NoCapacity,
    Provider,
    ProviderError,
    QuotaExceeded,
    Request,
)
from orchestrator.world import World
from policies import windows
from policies.lifecycle import Status, move
from policies.plan import Plan


def carry_out(world: World) -> None:
    """Carry out every open intent, whichever tick or daemon recorded it, oldest first."""
    with world.ledger.read() as tx:
        intents = fleet.open_intents(tx, world.deployment)
        machines = {machine.id: machine for machine in fleet.machines(tx, world.deployment)}
    closing = {intent.instance_id for intent in intents if intent.kind == "terminate"}
    for intent in intents:
        machine = machines.get(intent.instance_id)
        provider = world.providers.get(machine.provider) if machine else None
        if machine is None or provider is None:
            continue
        if intent.kind == "drain":
            _drain(world, intent, machine)
        elif intent.kind == "terminate":
            _terminate(world, intent, machine, provider)
        elif machine.id not in closing and machine.provider_id is None:
            _launch(world, intent, machine, provider)


def _launch(world: World, intent: Intent, machine: Machine, provider: Provider) -> None:
    with world.ledger.read() as tx:
        offer = offers.get(tx, machine.offer_id)
    error: ProviderError | None = None
    provider_id: str | None = None
    try:
        provider_id = provider.launch(Request(token=intent.token, offer=offer, payload=intent.payload))
    except ProviderError as refusal:
        error = refusal
    now = world.clock.now()
    with world.ledger.write() as tx:
        if provider_id is not None:
            booting = move(machine.status, Status.BOOTING)
            fleet.save(tx, replace(machine, status=booting, provider_id=provider_id, missing_since=now))
            fleet.settle(tx, intent.id, "done", now=now)
        elif isinstance(error, NoCapacity | QuotaExceeded | Misconfigured):
            fleet.settle(tx, intent.id, "failed", now=now, error=_words(error))
            failed = move(machine.status, Status.FAILED)
            fleet.save(tx, replace(machine, status=failed, ended_at=now, reason=_words(error)))
            offers.refused(tx, machine.offer_id, _words(error), now)
        else:
            fleet.attempted(tx, intent.id, now=now, error=_words(error))


def _drain(world: World, intent: Intent, machine: Machine) -> None:
    heard = machine.url is not None and world.probes.drain(machine.url)
    now = world.clock.now()
    with world.ledger.write() as tx:
        if heard:
            fleet.settle(tx, intent.id, "done", now=now)
        else:
            fleet.attempted(tx, intent.id, now=now, error="the replica does not answer")


def _terminate(world: World, intent: Intent, machine: Machine, provider: Provider) -> None:
    """Repeated until the machine is seen gone. What was never heard of is voided only after the listing deadline."""
    now = world.clock.now()
    if machine.provider_id is None:
        unseen_for = now - intent.opened_at  # the launch was not repeated since
        if unseen_for > timedelta(seconds=provider.listing_deadline_seconds):
            with world.ledger.write() as tx:
                fleet.settle(tx, machine.intent_id, "void", now=now, error=intent.reason)
                reason = f"never launched: {intent.reason}"
                fleet.save(
                    tx, replace(machine, status=move(machine.status, Status.FAILED), ended_at=now, reason=reason)
                )
        return
    error: str | None = None
    try:
        provider.terminate(machine.provider_id)
    except ProviderError as refusal:
        error = _words(refusal)
    with world.ledger.write() as tx:
        fleet.attempted(tx, intent.id, now=world.clock.now(), error=error)


def _words(error: ProviderError | None) -> str:
    return f"{type(error).__name__}: {error}"


def publish(world: World, plan: Plan, now: datetime) -> ServingSet:
    """Tell the door who serves: ready, answering, not leaving, and only inside the windows."""
    policy = world.policy(now)
    bounds = windows.bounds(policy.schedule, now)
    with world.ledger.read() as tx:
        machines = fleet.machines(tx, world.deployment)
    serving = [
        Replica(id=machine.id, url=machine.url, weight=1.0)
        for machine in machines
        if machine.status is Status.READY and machine.silent_since is None and machine.url is not None
    ]
    is_open = bounds.open and policy.wanted and (plan.target.replicas > 0 or bounds.min == 0)
    served = ServingSet(
        deployment=world.deployment,
        open=is_open,
        opens_at=None if is_open else bounds.opens_at,
        reason=bounds.reason if policy.wanted else plan.target.reason,
        starting=is_open,
        replicas=tuple(serving) if is_open else (),
    )
    world.door.publish(served)
    return served
