"""Open intents become calls, and their outcomes settle them: active. Every call may be repeated."""

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta

from orchestrator.arrivals import Arrival, arrival
from orchestrator.door import Replica, ServingSet
from orchestrator.errors import Refused
from orchestrator.ledger import fleet, intents, offers
from orchestrator.ledger.fleet import Machine
from orchestrator.ledger.intents import Intent
from orchestrator.ledger.store import Stale
from orchestrator.providers import (
    Misconfigured,
    NoCapacity,
    Provider,
    ProviderError,
    QuotaExceeded,
    Request,
)
from orchestrator.world import World
from policies.lifecycle import Status, move
from policies.plan import Plan

log = logging.getLogger("halve.act")


def carry_out(
    world: World, under_way: Sequence[Intent], machines: Iterable[Machine], unreachable: Collection[str]
) -> None:
    """Carry out every one of the open intents that is due, whichever tick or daemon recorded it, oldest first.

    On an unreachable provider nothing is launched, and nothing is given up: unseen is no evidence there. An error that
    nobody thought of is raised when all the others were carried out.
    """
    if not under_way:
        return
    known = {machine.id: machine for machine in machines}
    closing = {intent.instance_id for intent in under_way if intent.kind == "terminate"}
    mistakes: list[Exception] = []
    for intent in under_way:
        machine = known.get(intent.instance_id)
        provider = world.providers.get(machine.provider) if machine else None
        if machine is None or provider is None or not intent.due(world.clock.now()):
            continue
        if intent.kind == "launch" and (machine.id in closing or machine.provider_id is not None):
            continue
        try:
            _carry_out(world, intent, machine, provider, machine.provider not in unreachable)
        except (Stale, Refused):
            raise
        except Exception as mistake:
            log.exception("deployment=%s intent=%d %s", world.deployment, intent.id, intent.kind)
            mistakes.append(mistake)
            with world.ledger.write() as tx:
                intents.attempted(tx, intent.id, now=world.clock.now(), error=_words(mistake))
    if mistakes:
        raise mistakes[0]


def _carry_out(world: World, intent: Intent, machine: Machine, provider: Provider, reachable: bool) -> None:
    if intent.kind == "drain":
        _drain(world, intent, machine)
    elif intent.kind == "terminate" and machine.provider_id is not None:
        _terminate(world, intent, machine, provider)
    elif intent.kind == "terminate" and reachable:
        _give_up(world, intent, machine, provider)
    elif intent.kind == "launch" and reachable:
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
            intents.settle(tx, intent.id, "done", now=now)
        elif isinstance(error, NoCapacity | QuotaExceeded | Misconfigured):
            intents.settle(tx, intent.id, "failed", now=now, error=_words(error))
            failed = move(machine.status, Status.FAILED)
            fleet.save(tx, replace(machine, status=failed, ended_at=now, reason=_words(error)))
            offers.refused(tx, machine.offer_id, _words(error), now)
        else:
            intents.attempted(tx, intent.id, now=now, error=_words(error))


def _drain(world: World, intent: Intent, machine: Machine) -> None:
    heard = machine.url is not None and world.probes.drain(machine.url)
    now = world.clock.now()
    with world.ledger.write() as tx:
        if heard:
            intents.settle(tx, intent.id, "done", now=now)
        else:
            intents.attempted(tx, intent.id, now=now, error="the replica does not answer")


def _give_up(world: World, intent: Intent, machine: Machine, provider: Provider) -> None:
    """Void a launch that nobody has heard of once the listing deadline is over; it was not repeated meanwhile."""
    now = world.clock.now()
    if timedelta(0) <= now - intent.opened_at <= timedelta(seconds=provider.listing_deadline_seconds):
        return
    with world.ledger.write() as tx:
        intents.settle(tx, machine.intent_id, "void", now=now, error=intent.reason)
        failed = move(machine.status, Status.FAILED)
        fleet.save(tx, replace(machine, status=failed, ended_at=now, reason=f"never launched: {intent.reason}"))


def _terminate(world: World, intent: Intent, machine: Machine, provider: Provider) -> None:
    """Repeated until the machine is seen gone. One that is not listed any more is gone when its provider agrees."""
    error: str | None = None
    try:
        provider.terminate(str(machine.provider_id))
    except ProviderError as refusal:
        error = _words(refusal)
    now = world.clock.now()
    with world.ledger.write() as tx:
        intents.attempted(tx, intent.id, now=now, error=error)
        if machine.status is Status.LOST and error is None:
            ended = move(machine.status, Status.ENDED)
            fleet.save(tx, replace(machine, status=ended, ended_at=machine.missing_since or now))


def _words(error: Exception | None) -> str:
    return f"{type(error).__name__}: {error}"


def publish(world: World, plan: Plan, machines: Collection[Machine]) -> ServingSet:
    """Tell the door who serves: ready, not leaving, and only inside the windows; and where nobody does, whether
    requests are to wait for somebody.

    A silent one is left out, unless all are silent: then the prober is more likely to blame, or the load.
    """
    ready = [machine for machine in machines if machine.status is Status.READY]
    serving = [machine for machine in ready if machine.silent_since is None] or ready
    to_come = Arrival(expected=plan.hours.open)
    if plan.hours.open and not serving:
        to_come = arrival(world, plan, machines)
    served = ServingSet(
        deployment=world.deployment,
        open=plan.hours.open,
        opens_at=plan.hours.opens_at,
        reason=plan.hours.reason,
        starting=to_come.expected,
        again_at=to_come.launch_at,
        replicas=tuple(Replica(id=one.id, url=one.url) for one in serving if one.url and plan.hours.open),
    )
    world.door.publish(served)
    return served
