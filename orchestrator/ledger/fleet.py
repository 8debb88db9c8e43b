"""Machines, the intents that move them, and what they cost: the SQL of the loop's three transactions."""

import hashlib
import hmac
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from orchestrator.ledger import tables as t
from orchestrator.providers import Listed
from policies.disruption import Disruption
from policies.lifecycle import OVER, Status, move
from policies.plan import Drain, Hours, Launch, Plan, Target, Terminate
from policies.snapshot import Instance, Offer, Purchase

OVER_VALUES = [str(status) for status in OVER]
#: statuses in which a machine is known to cost money
BILLABLE = [str(status) for status in (Status.BOOTING, Status.READY, Status.DRAINING)]
#: between attempts to carry out one intent
FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One row of `instances`."""

    id: str
    deployment: str
    intent_id: int
    token: str
    provider: str
    provider_id: str | None
    offer_id: str
    zone: str
    instance_type: str
    gpu: str
    purchase: Purchase
    digest: str
    status: Status
    reason: str
    url: str | None
    requested_at: datetime
    launched_at: datetime | None
    ready_at: datetime | None
    draining_at: datetime | None
    ended_at: datetime | None
    reclaim_at: datetime | None
    silent_since: datetime | None
    missing_since: datetime | None

    def seen_as(self, *, in_flight: int | None, terminating: bool) -> Instance:
        """The same machine in the policies' words."""
        return Instance(
            id=self.id,
            offer_id=self.offer_id,
            provider=self.provider,
            gpu=self.gpu,
            purchase=self.purchase,
            status=self.status,
            digest=self.digest,
            requested_at=self.requested_at,
            launched_at=self.launched_at,
            ready_at=self.ready_at,
            draining_at=self.draining_at,
            reclaim_at=self.reclaim_at,
            silent_since=self.silent_since,
            in_flight=in_flight,
            terminating=terminating,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """One row of `intents`: an action decided, and whether it was carried out."""

    id: int
    deployment: str
    kind: str
    instance_id: str
    token: str
    payload: Mapping[str, Any]
    reason: str
    opened_at: datetime
    attempted_at: datetime | None
    attempts: int

    def due(self, now: datetime) -> bool:
        """Whether to try now: at once, then 1, 2, 4 ... and at last 30 s after each attempt."""
        if self.attempted_at is None or now < self.attempted_at:
            return True
        return now - self.attempted_at >= min(FIRST_PAUSE * (1 << min(self.attempts - 1, 16)), LONGEST_PAUSE)


def machine_of(row: sa.Row[Any]) -> Machine:
    """The machine of a row of `instances`."""
    found = dict(row._mapping)
    return Machine(**{**found, "status": Status(found["status"]), "purchase": Purchase(found["purchase"])})


def machines(tx: sa.Connection, deployment: str | None = None, *, over: bool = False) -> tuple[Machine, ...]:
    """Machines in the order of their launch; those that are over only when asked for."""
    query = sa.select(t.instances).order_by(t.instances.c.intent_id)
    if deployment is not None:
        query = query.where(t.instances.c.deployment == deployment)
    if not over:
        query = query.where(t.instances.c.status.not_in(OVER_VALUES))
    return tuple(machine_of(row) for row in tx.execute(query))


def live_tokens(tx: sa.Connection) -> frozenset[str]:
    """The tokens of all machines that are not over, of every deployment."""
    return frozenset(tx.scalars(sa.select(t.instances.c.token).where(t.instances.c.status.not_in(OVER_VALUES))))


def by_token(tx: sa.Connection, tokens: Iterable[str]) -> dict[str, Machine]:
    """Machines of these tokens, over or not."""
    query = sa.select(t.instances).where(t.instances.c.token.in_(list(tokens)))
    return {machine.token: machine for machine in map(machine_of, tx.execute(query))}


def open_intents(tx: sa.Connection, deployment: str) -> tuple[Intent, ...]:
    """Everything decided and not settled, oldest first."""
    c = t.intents.c
    columns = [c[one.name] for one in fields(Intent)]
    query = sa.select(*columns).where(c.deployment == deployment, c.state == "open").order_by(c.id)
    return tuple(Intent(**row._mapping) for row in tx.execute(query))


def intents(tx: sa.Connection, deployment: str) -> Sequence[Any]:
    """Everything that was ever decided about a deployment's machines: kind, instance, state, and when."""
    c = t.intents.c
    query = sa.select(c.kind, c.instance_id, c.state, c.opened_at).where(c.deployment == deployment)
    return tx.execute(query.order_by(c.id)).all()


def launches_since(tx: sa.Connection, deployment: str, since: datetime) -> tuple[datetime, ...]:
    """When machines were asked for since `since`: the runaway bound counts them."""
    c = t.intents.c
    query = sa.select(c.opened_at).where(c.deployment == deployment, c.kind == "launch", c.opened_at > since)
    return tuple(tx.execute(query.order_by(c.opened_at)).scalars())


def record(
    tx: sa.Connection,
    key: bytes,
    deployment: str,
    plan: Plan,
    *,
    now: datetime,
    digest: str,
    payload: Mapping[str, Any],
    snapshot: Mapping[str, Any] | None,
) -> None:
    """The first transaction: the tick, its intents, and machines as `requested`. No provider has been called yet."""
    tick_id = record_tick(tx, deployment, plan, now=now, snapshot=snapshot)
    for action in plan.actions:
        if isinstance(action, Launch):
            _record_launch(tx, key, deployment, tick_id, action, now=now, digest=digest, payload=payload)
        else:
            _record_leaving(tx, deployment, tick_id, action, now=now)


def record_tick(
    tx: sa.Connection, deployment: str, plan: Plan, *, now: datetime, snapshot: Mapping[str, Any] | None
) -> int:
    """One decision, whether or not it does anything. Returns its number."""
    actions = [
        {"kind": "launch", "offer": action.offer.id, "reason": action.reason}
        if isinstance(action, Launch)
        else {"kind": type(action).__name__.lower(), "instance": action.instance_id, "reason": action.reason}
        for action in plan.actions
    ]
    row = {
        "deployment": deployment,
        "at": now,
        "target": plan.target.replicas,
        "reason": plan.target.reason,
        "plan": {"actions": actions, "notes": list(plan.notes)},
        "snapshot": snapshot,
    }
    return int(tx.execute(t.ticks.insert().values(row).returning(t.ticks.c.id)).scalar_one())


def _record_launch(
    tx: sa.Connection,
    key: bytes,
    deployment: str,
    tick_id: int,
    action: Launch,
    *,
    now: datetime,
    digest: str,
    payload: Mapping[str, Any],
) -> None:
    offer = action.offer
    sent = {**payload, "offer": offer.id, "digest": digest}
    intent_id = _insert_intent(tx, deployment, tick_id, "launch", "", sent, action.reason, now)
    _insert_machine(tx, deployment, intent_id, token_of(key, intent_id, now), offer, digest, action.reason, now)


def _insert_machine(
    tx: sa.Connection,
    deployment: str,
    intent_id: int,
    token: str,
    offer: Offer,
    digest: str,
    reason: str,
    requested_at: datetime,
) -> Machine:
    machine_id = f"{deployment}-{intent_id}"
    tx.execute(t.intents.update().where(t.intents.c.id == intent_id).values(instance_id=machine_id, token=token))
    row = {
        "id": machine_id,
        "deployment": deployment,
        "intent_id": intent_id,
        "token": token,
        "provider": offer.provider,
        "offer_id": offer.id,
        "zone": offer.zone,
        "instance_type": offer.instance_type,
        "gpu": offer.gpu,
        "purchase": str(offer.purchase),
        "digest": digest,
        "status": str(Status.REQUESTED),
        "reason": reason,
        "requested_at": requested_at,
    }
    return machine_of(tx.execute(t.instances.insert().values(row).returning(*t.instances.c)).one())


def adopt(tx: sa.Connection, deployment: str, listed: Listed, offer: Offer, now: datetime) -> Machine:
    """Take in a machine that is ours by its tags, and that the ledger does not know: it was restored, or it is new.

    Its launch is dated when it happened, so that the runaway bound counts it there.
    """
    why = "adopted: ours by its tags, and not in this ledger"
    last = last_tick(tx, deployment)
    nothing = Plan(target=Target(replicas=0, reason=why), hours=Hours(open=False, opens_at=None, reason=why))
    tick_id = record_tick(tx, deployment, nothing, now=now, snapshot=None) if last is None else int(last.id)
    payload = {"deployment": deployment, "offer": offer.id, "digest": listed.tags.digest}
    at = min(listed.launched_at, now)
    intent_id = _insert_intent(tx, deployment, tick_id, "launch", "", payload, why, at)
    return _insert_machine(tx, deployment, intent_id, listed.token, offer, listed.tags.digest, why, at)


def _record_leaving(
    tx: sa.Connection, deployment: str, tick_id: int, action: Drain | Terminate, *, now: datetime
) -> None:
    kind = "drain" if isinstance(action, Drain) else "terminate"
    _insert_intent(tx, deployment, tick_id, kind, action.instance_id, {}, action.reason, now)
    (machine,) = (
        machine_of(row) for row in tx.execute(sa.select(t.instances).where(t.instances.c.id == action.instance_id))
    )
    if machine.status in (Status.BOOTING, Status.READY):
        save(tx, replace(machine, status=move(machine.status, Status.DRAINING), draining_at=now, reason=action.reason))


def _insert_intent(
    tx: sa.Connection,
    deployment: str,
    tick_id: int,
    kind: str,
    instance_id: str,
    payload: Mapping[str, Any],
    reason: str,
    now: datetime,
) -> int:
    row = {
        "deployment": deployment,
        "tick_id": tick_id,
        "kind": kind,
        "instance_id": instance_id,
        "payload": payload,
        "reason": reason,
        "state": "open",
        "opened_at": now,
    }
    return int(tx.execute(t.intents.insert().values(row).returning(t.intents.c.id)).scalar_one())


def token_of(key: bytes, intent_id: int, opened_at: datetime) -> str:
    """The token of a launch: the same intent of the same installation is always the same token.

    Its time is part of it: a ledger that was restored from a backup counts its intents from there once more.
    """
    return hmac.new(key, f"launch:{intent_id}:{opened_at.isoformat()}".encode(), hashlib.sha256).hexdigest()[:40]


def save(tx: sa.Connection, machine: Machine) -> None:
    """Write back everything about a machine that may change."""
    values = {
        name: getattr(machine, name)
        for name in (
            "provider_id",
            "status",
            "reason",
            "url",
            "launched_at",
            "ready_at",
            "draining_at",
            "ended_at",
            "reclaim_at",
            "silent_since",
            "missing_since",
        )
    }
    values["status"] = str(machine.status)
    tx.execute(t.instances.update().where(t.instances.c.id == machine.id).values(values))
    if machine.status in OVER:
        _settle_all(tx, machine.id, machine.ended_at or machine.requested_at)


def _settle_all(tx: sa.Connection, machine_id: str, now: datetime) -> None:
    """A machine that is over has nothing left to be done to it."""
    c = t.intents.c
    open_ones = t.intents.update().where(c.instance_id == machine_id, c.state == "open")
    tx.execute(open_ones.values(state="done", settled_at=now))


def settle(tx: sa.Connection, intent_id: int, state: str, *, now: datetime, error: str | None = None) -> None:
    """Close an intent as done, failed or void."""
    c = t.intents.c
    query = t.intents.update().where(c.id == intent_id, c.state == "open")
    tx.execute(query.values(state=state, settled_at=now, attempted_at=now, attempts=c.attempts + 1, error=error))


def attempted(tx: sa.Connection, intent_id: int, *, now: datetime, error: str | None) -> None:
    """Note a call that settled nothing; the intent stays open and the call is repeated."""
    c = t.intents.c
    tx.execute(
        t.intents.update().where(c.id == intent_id).values(attempted_at=now, attempts=c.attempts + 1, error=error)
    )


def last_tick(tx: sa.Connection, deployment: str) -> sa.Row[Any] | None:
    """The newest decision about a deployment."""
    query = sa.select(t.ticks).where(t.ticks.c.deployment == deployment).order_by(t.ticks.c.id.desc()).limit(1)
    return tx.execute(query).first()


def targets(tx: sa.Connection, deployment: str, since: datetime) -> tuple[tuple[datetime, int], ...]:
    """The targets decided since then, and the one that held until then, with their times; the oldest first."""
    c = t.ticks.c
    decided = sa.select(c.at, c.target).where(c.deployment == deployment)
    before = tx.execute(decided.where(c.at <= since).order_by(c.at.desc(), c.id.desc()).limit(1)).all()
    rows = [*before, *tx.execute(decided.where(c.at > since).order_by(c.id))]
    return tuple((row.at, row.target) for row in rows)


def target_since(tx: sa.Connection, deployment: str) -> datetime | None:
    """Since when the last target has been decided without a break; None before the first tick."""
    c = t.ticks.c
    last = last_tick(tx, deployment)
    if last is None:
        return None
    other = sa.select(sa.func.max(c.id)).where(c.deployment == deployment, c.target != last.target).scalar_subquery()
    later = sa.select(sa.func.min(c.at)).where(c.deployment == deployment, c.id > sa.func.coalesce(other, 0))
    found: datetime | None = tx.scalar(later)
    return found


def ticks(tx: sa.Connection, deployment: str, *, until: datetime, acted: bool, limit: int) -> Sequence[sa.Row[Any]]:
    """The newest decisions up to a time; `acted` leaves out those that did nothing."""
    c = t.ticks.c
    query = sa.select(t.ticks).where(c.deployment == deployment, c.at <= until)
    if acted:
        query = query.where(c.snapshot.is_not(sa.null()))
    return tx.execute(query.order_by(c.id.desc()).limit(limit)).all()


def start_seconds(tx: sa.Connection, deployment: str, latest: int = 20) -> float | None:
    """The p95 (nearest rank) of the last starts, launch to ready; None when nothing has started yet."""
    c = t.instances.c
    query = sa.select(c.launched_at, c.ready_at).where(c.deployment == deployment, c.ready_at.is_not(None))
    rows = tx.execute(query.order_by(c.intent_id.desc()).limit(latest)).all()
    # a clock that was set makes some of them negative or endless, and one that was adopted was ready before it was seen
    waits = [(row.ready_at - row.launched_at).total_seconds() for row in rows]
    waits = sorted(wait for wait in waits if 0 < wait <= Disruption().start_seconds)
    return waits[math.ceil(0.95 * len(waits)) - 1] if waits else None
