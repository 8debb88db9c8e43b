"""Machines: the SQL of `instances`, and the transaction that records a plan before any provider is called.

The statements of a tick are built once and filled in, here and beside: to build one takes longer than to execute it.
"""

import hashlib
import hmac
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from orchestrator.ledger import intents, ticks
from orchestrator.ledger import tables as t
from orchestrator.providers import Listed
from policies.disruption import Disruption
from policies.lifecycle import OVER, Status, move
from policies.plan import Drain, Hours, Launch, Plan, Target, Terminate
from policies.snapshot import Instance, Offer, Purchase

OVER_VALUES = [str(status) for status in OVER]
#: statuses in which a machine is known to cost money
BILLABLE = [str(status) for status in (Status.BOOTING, Status.READY, Status.DRAINING)]
#: by their words, which is quicker than to construct them, ten thousand times a tick
STATUSES = {str(status): status for status in Status}
PURCHASES = {str(purchase): purchase for purchase in Purchase}
#: why a machine is in the ledger that it did not launch
ADOPTED = "adopted: ours by its tags, and not in this ledger"


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
    rebalance_at: datetime | None

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
            rebalance_at=self.rebalance_at,
            silent_since=self.silent_since,
            in_flight=in_flight,
            terminating=terminating,
        )


MACHINE = tuple(t.instances.c.keys())


def machine_of(row: sa.Row[Any]) -> Machine:
    """The machine of a row of `instances`."""
    found = dict(zip(MACHINE, row, strict=True))
    found["status"], found["purchase"] = STATUSES[found["status"]], PURCHASES[found["purchase"]]
    return Machine(**found)


@lru_cache
def _machines(of_one: bool, over: bool) -> sa.Select[Any]:
    query = sa.select(t.instances).order_by(t.instances.c.intent_id)
    if of_one:
        query = query.where(t.instances.c.deployment == sa.bindparam("deployment"))
    return query if over else query.where(t.ALIVE)


def machines(tx: sa.Connection, deployment: str | None = None, *, over: bool = False) -> tuple[Machine, ...]:
    """Machines in the order of their launch; those that are over only when asked for."""
    asked = {} if deployment is None else {"deployment": deployment}
    return tuple(map(machine_of, tx.execute(_machines(deployment is not None, over), asked)))


OF_OFFERS = (
    sa.select(t.instances)
    .where(t.instances.c.offer_id.in_(sa.bindparam("offers", expanding=True)))
    .where(sa.or_(t.ALIVE, t.instances.c.ended_at > sa.bindparam("since", type_=t.Moment)))
    .order_by(t.instances.c.intent_id)
)


def of_offers(tx: sa.Connection, offer_ids: Iterable[str], since: datetime) -> tuple[Machine, ...]:
    """Machines of these offers, of any deployment, that are not over, or ended after a moment."""
    return tuple(map(machine_of, tx.execute(OF_OFFERS, {"offers": sorted(offer_ids), "since": since})))


LIVE_TOKENS = sa.select(t.instances.c.token).where(t.ALIVE)
LIVE_TOKENS_OF_ONE = LIVE_TOKENS.where(t.instances.c.deployment == sa.bindparam("deployment"))


def live_tokens(tx: sa.Connection, deployment: str | None = None) -> frozenset[str]:
    """The tokens of all machines that are not over, of one deployment or of every one."""
    if deployment is None:
        return frozenset(tx.scalars(LIVE_TOKENS))
    return frozenset(tx.scalars(LIVE_TOKENS_OF_ONE, {"deployment": deployment}))


COSTING = sa.select(t.instances.c.deployment).where(t.ALIVE).distinct()


def costing(tx: sa.Connection) -> frozenset[str]:
    """The deployments that have machines which are not over."""
    return frozenset(tx.scalars(COSTING))


BY_TOKEN = sa.select(t.instances).where(t.instances.c.token.in_(sa.bindparam("tokens", expanding=True)))


def by_token(tx: sa.Connection, tokens: Iterable[str]) -> dict[str, Machine]:
    """Machines of these tokens, over or not."""
    return {machine.token: machine for machine in map(machine_of, tx.execute(BY_TOKEN, {"tokens": list(tokens)}))}


UNSEEN_ENDS = (
    sa.select(t.instances)
    .where(t.instances.c.deployment == sa.bindparam("deployment"), t.instances.c.purchase != str(Purchase.OWNED))
    .where(t.instances.c.status.in_([*OVER_VALUES, str(Status.LOST)]))
    .where(t.instances.c.missing_since >= sa.bindparam("since"))
    .order_by(t.instances.c.intent_id)
)


def unseen_ends(tx: sa.Connection, deployment: str, since: datetime) -> tuple[Machine, ...]:
    """Rented machines that were missed since then, and that their provider never listed as gone.

    It forgot them before anybody looked: they are charged until they were missed, which may be more than their bill
    says; and one that was never listed at all is not charged.
    """
    return tuple(map(machine_of, tx.execute(UNSEEN_ENDS, {"deployment": deployment, "since": since})))


LAUNCHES_SINCE = (
    sa.select(t.intents.c.opened_at)
    .where(t.intents.c.deployment == sa.bindparam("deployment"), t.intents.c.kind == "launch")
    .where(t.intents.c.opened_at > sa.bindparam("since"))
    .order_by(t.intents.c.opened_at)
)


def launches_since(tx: sa.Connection, deployment: str, since: datetime) -> tuple[datetime, ...]:
    """When machines were asked for since `since`: the runaway bound counts them."""
    return tuple(tx.scalars(LAUNCHES_SINCE, {"deployment": deployment, "since": since}))


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
    tick_id = ticks.record(tx, deployment, plan, now=now, snapshot=snapshot)
    for action in plan.actions:
        if isinstance(action, Launch):
            _record_launch(tx, key, deployment, tick_id, action, now=now, digest=digest, payload=payload)
        else:
            _record_leaving(tx, deployment, tick_id, action, now=now)


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
    intent_id = intents.insert(tx, deployment, tick_id, "launch", "", sent, action.reason, now)
    token = _new_token(tx, key, intent_id, now)
    _insert_machine(tx, deployment, intent_id, token, offer, digest, action.reason, now)


BEARS = sa.select(t.instances.c.id).where(t.instances.c.token == sa.bindparam("token"))


def _new_token(tx: sa.Connection, key: bytes, intent_id: int, now: datetime) -> str:
    """The token of a launch, of a moment later if some machine bears it: after a restore the number may come again, and
    the time too where the clock was set back.
    """
    while tx.scalar(BEARS, {"token": (token := token_of(key, intent_id, now))}) is not None:
        now += timedelta.resolution
    return token


INSERT_MACHINE = t.instances.insert().returning(*t.instances.c)


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
    intents.name(tx, intent_id, machine_id, token)
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
    return machine_of(tx.execute(INSERT_MACHINE, row).one())


def adopt(tx: sa.Connection, deployment: str, listed: Listed, offer: Offer, now: datetime) -> Machine:
    """Take in a machine that is ours by its tags, and that the ledger does not know: it was restored, or it is new.

    Its launch is dated when it happened, so that the runaway bound counts it there.
    """
    why = ADOPTED
    last = ticks.last(tx, deployment)
    nothing = Plan(target=Target(replicas=0, reason=why), hours=Hours(open=False, opens_at=None, reason=why))
    tick_id = ticks.record(tx, deployment, nothing, now=now, snapshot=None) if last is None else int(last.id)
    payload = {"deployment": deployment, "offer": offer.id, "digest": listed.tags.digest}
    at = min(listed.launched_at, now)
    intent_id = intents.insert(tx, deployment, tick_id, "launch", "", payload, why, at)
    return _insert_machine(tx, deployment, intent_id, listed.token, offer, listed.tags.digest, why, at)


BY_ID = sa.select(t.instances).where(t.instances.c.id == sa.bindparam("machine"))


def _record_leaving(
    tx: sa.Connection, deployment: str, tick_id: int, action: Drain | Terminate, *, now: datetime
) -> None:
    kind = "drain" if isinstance(action, Drain) else "terminate"
    intents.insert(tx, deployment, tick_id, kind, action.instance_id, {}, action.reason, now)
    machine = machine_of(tx.execute(BY_ID, {"machine": action.instance_id}).one())
    if machine.status in (Status.BOOTING, Status.READY):
        save(tx, replace(machine, status=move(machine.status, Status.DRAINING), draining_at=now, reason=action.reason))


def token_of(key: bytes, intent_id: int, opened_at: datetime) -> str:
    """The token of a launch: the same intent of the same installation is always the same token.

    Its time is part of it: a ledger that was restored from a backup counts its intents from there once more.
    """
    return hmac.new(key, f"launch:{intent_id}:{opened_at.isoformat()}".encode(), hashlib.sha256).hexdigest()[:40]


#: everything about a machine that may change
CHANGING = (
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
    "rebalance_at",
)
SAVE = t.instances.update().where(t.instances.c.id == sa.bindparam("machine"))


def save(tx: sa.Connection, machine: Machine) -> None:
    """Write back everything about a machine that may change."""
    values = {name: getattr(machine, name) for name in CHANGING}
    tx.execute(SAVE, values | {"machine": machine.id, "status": str(machine.status)})
    if machine.status in OVER:
        intents.settle_all(tx, machine.id, machine.ended_at or machine.requested_at)


def last_end(tx: sa.Connection, deployment: str) -> datetime | None:
    """When the last machine of a deployment ended; None when none has."""
    c = t.instances.c
    found: datetime | None = tx.scalar(sa.select(sa.func.max(c.ended_at)).where(c.deployment == deployment))
    return found


STARTS = (
    sa.select(t.instances.c.launched_at, t.instances.c.ready_at)
    .where(t.instances.c.deployment == sa.bindparam("deployment"), t.instances.c.ready_at.is_not(None))
    .order_by(t.instances.c.intent_id.desc())
    .limit(sa.bindparam("latest"))
)


def start_seconds(tx: sa.Connection, deployment: str, latest: int = 20) -> float | None:
    """The p95 (nearest rank) of the last starts, launch to ready; None when nothing has started yet."""
    rows = tx.execute(STARTS, {"deployment": deployment, "latest": latest}).all()
    # a clock that was set makes some of them negative or endless, and one that was adopted was ready before it was seen
    waits = [(row.ready_at - row.launched_at).total_seconds() for row in rows]
    waits = sorted(wait for wait in waits if 0 < wait <= Disruption().start_seconds)
    return waits[math.ceil(0.95 * len(waits)) - 1] if waits else None
