"""Whether a replica may be expected where none serves: what the door keeps requests for, else when to come again.

A decision was taken a little before: what kept it from a launch, and has ended since, does so no more at the next one.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.door.limits import Limits
from orchestrator.ledger import beliefs, fleet, intents, offers, ticks
from orchestrator.ledger.fleet import Machine
from orchestrator.world import World
from policies import windows
from policies.candidates import backed_off_until
from policies.lifecycle import STARTING, Status
from policies.plan import Plan
from policies.policy import HAZARD, Policy
from policies.snapshot import Offer, Purchase

HOUR = timedelta(hours=1)
#: as long as the door keeps a request
HOLD = timedelta(seconds=Limits().hold)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """Whether waiting for a replica is worth it; if not, when one may be launched at the earliest (None: not known)."""

    expected: bool
    launch_at: datetime | None = None


def arrival(world: World, plan: Plan, machines: Collection[Machine]) -> Arrival:
    """What may be expected after this plan, with these machines of the deployment, those of its launches among them."""
    now = world.clock.now()
    with world.ledger.read() as tx:
        under_way = intents.under_way(tx, world.deployment)
        recent = [at for at in fleet.launches_since(tx, world.deployment, now - HOUR - HOLD) if at <= now]
    closing = {intent.instance_id for intent in under_way if intent.kind == "terminate"}
    if any(one.status in STARTING and one.id not in closing for one in machines):
        return Arrival(expected=True)
    # without a launch in the last hour no bound is reached, and nobody has to look up which one holds
    bound_ends = resumes_at(recent, world.policy(now), now) if recent else None
    if bound_ends is not None and bound_ends > now:
        return Arrival(expected=False, launch_at=max(bound_ends, _asked_at(_left_alone(world, now), now)))
    if plan.target.replicas == 0:  # a request is what wakes the first one
        return Arrival(expected=True)
    if any(one.status is Status.DRAINING or one.id in closing for one in machines):  # its place is taken by another
        return Arrival(expected=True)
    untils = _left_alone(world, now)
    lately = [until for until in untils if until is not None and until > now - HOLD]
    if bound_ends is not None:  # it ended a moment ago: the offers alone say when the next launch may be
        at = _asked_at(untils, now)
    elif lately:
        at = min(lately)
    else:
        return Arrival(expected=_lately_wanted(world, now))
    return Arrival(expected=True) if at - now <= HOLD else Arrival(expected=False, launch_at=at)


def resumes_at(recent: Sequence[datetime], policy: Policy, now: datetime) -> datetime | None:
    """When the runaway bound lets the next launch through after as many as there are in `recent` (by time); None: it
    does already.
    """
    bound = policy.launches_per_hour(windows.bounds(policy.schedule, now).max)
    return recent[len(recent) - bound] + HOUR if len(recent) >= bound else None


def left_alone_until(offer: Offer, resting: Mapping[str, datetime], now: datetime) -> datetime | None:
    """Until when an offer is, or was, left alone; None: it is not. `resting`: the spot pools that rest, by offer."""
    if (offer.refused_at or now) > now:  # that was before the clock was set back: it is not waited for
        return None
    return resting.get(offer.id) if offer.purchase is Purchase.SPOT else backed_off_until(offer)


def resting_spot(memory: Mapping[str, Any]) -> dict[str, datetime]:
    """Until when the placement of spot machines leaves which pool alone, as its memory in the ledger says."""
    known = memory["own"]["pools"] if memory.get("policy") == HAZARD and memory["own"] else ()
    return {
        pool: datetime.fromtimestamp(one["retry_at"], UTC)
        for pool, one in zip(memory.get("pools", ()), known, strict=False)
        if one["retry_at"] > 0
    }


def _lately_wanted(world: World, now: datetime) -> bool:
    """Whether nobody was wanted when the oldest request that is kept came: a provider may be away for a moment."""
    with world.ledger.read() as tx:
        decided = ticks.targets(tx, world.deployment, now - HOLD)
    return not decided or decided[0][0] > now - HOLD or any(target == 0 for _, target in decided)


def _left_alone(world: World, now: datetime) -> list[datetime | None]:
    """Until when each of the offers that the spec allows is, or was, left alone; None: it was not."""
    policy = world.policy(now)
    with world.ledger.read() as tx:
        known = offers.known(tx, list(world.providers))
        resting = resting_spot(beliefs.known(tx, world.deployment).get("placement", {}))
    return [left_alone_until(one, resting, now) for one in known if policy.allows(one)]


def _asked_at(untils: Sequence[datetime | None], now: datetime) -> datetime:
    """When the first of the offers may be asked."""
    return max(now, min((until or now for until in untils), default=now))
