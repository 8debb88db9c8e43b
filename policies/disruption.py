"""Who leaves, in what order: doomed, failed, outdated, surplus; and when one that drains may be ended."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from policies.lifecycle import LIVE, STARTING, Status
from policies.snapshot import Instance, Purchase

#: a machine that the provider should have taken back is ended by us this long after
RECLAIM_GRACE = timedelta(minutes=5)
#: of an outdated machine: why it is
CHANGED = "the spec changed"
RECOMMENDED = "the provider recommends to leave it"
NEEDLESS = "a machine of one's own is free"
DEARER = "a cheaper machine is to be had"
#: a recommendation is worth a replacement for so long: many are followed by nothing
RECOMMENDED_FOR = timedelta(hours=1)
#: and on a machine this old, unless its start takes too long: who is taken back before is free
SETTLED = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disruption:
    """How patient to be, in seconds."""

    start_seconds: float = 600.0  # to answer ready after the launch
    silent_seconds: float = 30.0  # to answer probes again
    drain_seconds: float = 60.0  # to finish what is in flight


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """An instance that should go, and why."""

    instance: Instance
    reason: str


def doomed(
    instances: Sequence[Instance], disruption: Disruption, now: datetime, unreachable: Collection[str] = ()
) -> tuple[Leaving, ...]:
    """Those that cannot be kept, whatever the target: reclaimed, silent, or never ready.

    What an unreachable provider's machines do not say is held against nobody.
    """
    return tuple(
        Leaving(instance=instance, reason=reason)
        for instance in instances
        if instance.status in LIVE
        and not instance.terminating
        and (reason := _doom(instance, disruption, now, instance.provider not in unreachable))
    )


def _doom(instance: Instance, disruption: Disruption, now: datetime, heard: bool) -> str | None:
    if instance.reclaim_at is not None:
        return f"the provider takes it back at {instance.reclaim_at:%H:%M:%S} UTC"
    silent = instance.silent_since
    if heard and silent is not None and now - silent >= timedelta(seconds=disruption.silent_seconds):
        return f"no answer since {silent:%H:%M:%S} UTC"
    if heard and overdue(instance.status, instance.requested_at, instance.launched_at, disruption, now):
        return f"not ready {disruption.start_seconds:.0f} s after its launch"
    return None


def overdue(
    status: Status, requested_at: datetime, launched_at: datetime | None, disruption: Disruption, now: datetime
) -> bool:
    """Whether a machine should have answered ready by now. Its provider's clock may be behind ours."""
    started_at = max(requested_at, launched_at or requested_at)
    return status in STARTING and now - started_at >= timedelta(seconds=disruption.start_seconds)


def at_risk(staying: Sequence[Instance], target: int, now: datetime, settled: timedelta = SETTLED) -> dict[str, str]:
    """Ready spot machines as old as `settled` that are better replaced, by id, and why: their provider recommends to
    leave them.

    Of several in a pool none is, unless all are to be left: a pool that is left for one is left for all of them. And
    none where enough others served before it was said: their loss would leave no gap.
    """
    kept = {one.offer_id for one in staying if not _recommended(one, now)}
    found = {
        one.id: one.rebalance_at or now
        for one in staying
        if one.status is Status.READY
        and one.purchase is Purchase.SPOT
        and one.offer_id not in kept
        and now - (one.launched_at or one.requested_at) >= settled
    }
    said_at = min(found.values(), default=now)
    others = (one for one in staying if one.status is Status.READY and one.id not in found)
    enough = sum(one.requested_at < said_at for one in others) >= target
    return {} if enough else dict.fromkeys(found, RECOMMENDED)


def _recommended(instance: Instance, now: datetime) -> bool:
    at = instance.rebalance_at
    return at is not None and timedelta(0) <= now - at < RECOMMENDED_FOR


def leaving(
    staying: Sequence[Instance], target: int, surge: int, outdated_why: Mapping[str, str]
) -> tuple[Leaving, ...]:
    """Of those that could stay: outdated ones whose replacement serves, and surplus.

    Starting ones leave before ready ones, and the youngest first.
    """
    current = [one for one in staying if one.id not in outdated_why]
    order = sorted(current, key=lambda one: (one.status is Status.READY, -_age(one)))
    surplus = order[: max(0, len(current) - target)]
    return (
        *outdated(staying, target, surge, outdated_why),
        *(Leaving(instance=one, reason=f"surplus: the target is {target}") for one in surplus),
    )


def outdated(
    staying: Sequence[Instance], target: int, surge: int, outdated_why: Mapping[str, str]
) -> tuple[Leaving, ...]:
    """Outdated ones that may go (by id, why they are): those that start at once; a ready one only when enough others
    are ready, except without surge, where one at a time makes room.
    """
    old = [one for one in staying if one.id in outdated_why]
    gone = [Leaving(instance=one, reason=outdated_why[one.id]) for one in old if one.status in STARTING]
    ready_old = sorted((one for one in old if one.status is Status.READY), key=_age)
    current = [one for one in staying if one.id not in outdated_why]
    ready_current = sum(one.status is Status.READY for one in current)
    spare = ready_current + len(ready_old) - target
    if surge == 0 and spare <= 0 < target <= len(staying) and ready_current == len(current):
        spare = 1
    replaced = ready_old[: max(0, spare)]
    gone += [Leaving(instance=one, reason=f"{outdated_why[one.id]}, its replacement serves") for one in replaced]
    return tuple(gone)


def beyond(
    staying: Sequence[Instance], gone: Sequence[Leaving], most: int, outdated_ids: Collection[str]
) -> tuple[Leaving, ...]:
    """Of those that nobody has sent away yet, more than may be up at all: outdated and starting ones first."""
    sent = {one.instance.id for one in gone}
    left = [one for one in staying if one.id not in sent]
    order = sorted(left, key=lambda one: (one.id not in outdated_ids, one.status is Status.READY, -_age(one)))
    excess = order[: max(0, len(left) - most)]
    return tuple(Leaving(instance=one, reason=f"surplus: at most {most} may be up") for one in excess)


def finished(instance: Instance, disruption: Disruption, now: datetime) -> str | None:
    """Why an instance that serves no more may be ended now, or None while it should go on draining."""
    if instance.terminating:
        return None
    if instance.status is Status.LOST:
        return "no longer listed: to be certain"
    if instance.status is Status.STOPPED:
        return "somebody switched it off: it serves nobody, and its disk costs"
    if instance.status is not Status.DRAINING or awaits_reclaim(instance, now):
        return None
    if instance.in_flight == 0:
        return "drained"
    if instance.draining_at is None or now - instance.draining_at >= timedelta(seconds=disruption.drain_seconds):
        return f"not drained within {disruption.drain_seconds:.0f} s"
    return None


def awaits_reclaim(instance: Instance, now: datetime) -> bool:
    """Whether its provider ends it: who ends a spot machine in its first hour himself pays for that hour."""
    return instance.reclaim_at is not None and now < instance.reclaim_at + RECLAIM_GRACE


def _age(instance: Instance) -> float:
    return instance.requested_at.timestamp()
