"""The only place where the policies meet: snapshot in, plan out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction

from policies import budget, disruption, scaling, selection, throughput, windows
from policies.lifecycle import LIVE, STARTING, Status
from policies.plan import Action, Drain, Hours, Launch, Plan, Target, Terminate
from policies.snapshot import Instance, Offer, Purchase, Snapshot

#: a refused pool is left alone for FIRST x 2^(refusals - 1), at most LONGEST
BACKOFF_FIRST = timedelta(seconds=10)
BACKOFF_LONGEST = timedelta(minutes=15)
#: a spot pool that took a machine back is not trusted with the next one for this long
AFTER_LOSS = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the spec asks for, in the policies' own terms."""

    model: str
    schedule: windows.Schedule
    providers: tuple[str, ...]  # in order of preference
    currency: str = ""  # what budgets and comparisons speak; "": that of the prices
    rates: Mapping[str, Fraction] = field(default_factory=dict)  # what one unit of another currency is worth in it
    gpus: tuple[str, ...] = ()  # allowed ones; empty: any
    p95_ms: float | None = None
    try_unmeasured: bool = False
    spot: bool = False
    base_on_demand: int = 0  # so many are never spot machines
    surge: int = 1
    utilisation: float = 0.7  # share of the measured throughput that is planned with
    start_seconds: float = scaling.START_UNMEASURED_SECONDS  # from launch to ready
    patience: disruption.Disruption = field(default_factory=disruption.Disruption)
    limit: budget.Budget | None = None
    wanted: bool = True  # False: the deployment was taken down

    def allows(self, machine: Offer | Instance) -> bool:
        """Whether the spec lets such a machine serve."""
        usual = machine.purchase is not Purchase.SPOT or self.spot
        keys = {throughput.gpu_key(gpu) for gpu in self.gpus}
        return usual and machine.provider in self.providers and (not keys or throughput.gpu_key(machine.gpu) in keys)

    def launches_per_hour(self, maximum: int) -> int:
        """The runaway bound: whatever fails, no more launches than this in an hour."""
        return 20 + 10 * maximum


def decide(snapshot: Snapshot, policy: Policy) -> Plan:
    """Compare what is with what should be. An unchanged world gives an empty plan."""
    bounds = windows.bounds(policy.schedule, snapshot.now)
    lost_causes = disruption.doomed(snapshot.instances, policy.patience, snapshot.now, snapshot.unreachable)
    dropped = {one.instance.id for one in lost_causes}
    staying = [
        one for one in snapshot.instances if one.status in LIVE and one.id not in dropped and not one.terminating
    ]
    if policy.wanted:
        fleet = _fleet(snapshot, policy, staying)
        target = scaling.target(snapshot.load, snapshot.jobs, fleet, bounds, _scaling(snapshot, policy))
    else:
        target = Target(replicas=0, reason="taken down")
    capped = budget.cap(target, bounds.min, snapshot.spend, policy.limit)
    target = capped.target
    outdated = {one.id for one in staying if one.digest != snapshot.digest or not policy.allows(one)}
    gone = lost_causes + disruption.leaving(staying, target.replicas, policy.surge, outdated)
    actions: list[Action] = []
    for one in gone:
        if one.instance.status is Status.READY:
            actions.append(Drain(instance_id=one.instance.id, reason=one.reason))
        elif not disruption.awaits_reclaim(one.instance, snapshot.now):
            actions.append(Terminate(instance_id=one.instance.id, reason=one.reason))
    for instance in snapshot.instances:
        if reason := disruption.finished(instance, policy.patience, snapshot.now):
            actions.append(Terminate(instance_id=instance.id, reason=reason))
    launches, notes = _launches(snapshot, policy, target, bounds.max, staying, outdated, capped.spot_only)
    if capped.note:
        notes = (capped.note, *notes)
    if away := snapshot.unreachable.intersection(policy.providers):
        notes = (*notes, f"{', '.join(sorted(away))} cannot be reached: held as it is, nothing is launched there")
    if snapshot.strangers:
        notes = (*notes, f"not in this ledger, but ours by their tag: {', '.join(snapshot.strangers)}")
    return Plan(target=target, hours=_hours(policy, bounds, capped), actions=(*actions, *launches), notes=notes)


def _hours(policy: Policy, bounds: windows.Bounds, capped: budget.Capped) -> Hours:
    if not policy.wanted or (bounds.open and capped.stopped):
        return Hours(open=False, opens_at=None, reason=capped.target.reason)
    return Hours(open=bounds.open, opens_at=bounds.opens_at, reason=bounds.reason)


def _fleet(snapshot: Snapshot, policy: Policy, up: Sequence[Instance]) -> scaling.Fleet:
    speeds = {gpu: _speed(snapshot, policy, gpu) for gpu in {one.gpu for one in up}}
    raised = None if snapshot.raised_at is None else (snapshot.now - snapshot.raised_at).total_seconds()
    return scaling.Fleet(
        speeds=tuple(speeds[one.gpu] for one in up),
        starting=sum(one.status in STARTING for one in up),
        last_target=snapshot.last_target,
        raised_seconds_ago=raised if raised is None or raised >= 0 else None,  # none of the future
    )


def _scaling(snapshot: Snapshot, policy: Policy) -> scaling.Scaling:
    """What one more replica brings: one of the offer that would be taken next."""
    candidates, _ = _candidates(snapshot, policy, spot_only=False)
    speeds = (one.profile.images_per_second for one in candidates if one.profile is not None)
    return scaling.Scaling(
        images_per_second=next(speeds, None), utilisation=policy.utilisation, start_seconds=policy.start_seconds
    )


def _speed(snapshot: Snapshot, policy: Policy, gpu: str) -> float | None:
    profile = throughput.measured(snapshot.profiles, policy.model, gpu, policy.p95_ms)
    return None if profile is None else profile.images_per_second


def _launches(
    snapshot: Snapshot,
    policy: Policy,
    target: Target,
    maximum: int,
    staying: Sequence[Instance],
    outdated: Collection[str],
    spot_only: bool,
) -> tuple[tuple[Launch, ...], tuple[str, ...]]:
    current = sum(one.id not in outdated for one in staying)
    missing = min(target.replicas - current, target.replicas + policy.surge - len(staying))
    if missing <= 0:
        return (), ()
    recent = sum(at <= snapshot.now for at in snapshot.recent_launches)  # none of the future: clocks are set back
    allowed = policy.launches_per_hour(maximum) - recent
    if allowed <= 0:
        return (), (f"{recent} launches in the last hour: waiting (runaway bound)",)
    candidates, notes = _candidates(snapshot, policy, spot_only)
    if not candidates:
        return (), (*notes, f"{missing} replicas are missing and no offer can be taken now")
    taken: dict[str, int] = {}
    for one in snapshot.instances:
        if one.status in LIVE or one.status is Status.DRAINING:
            taken[one.offer_id] = taken.get(one.offer_id, 0) + 1
    launches = []
    steady = sum(one.purchase is not Purchase.SPOT for one in staying)
    base = 0 if spot_only else policy.base_on_demand  # the budget's word is the last one
    measured = {c.offer.id for c in candidates if c.profile is not None or c.offer.purchase is Purchase.OWNED}
    # one machine that nobody has measured is enough
    trying = any(one.purchase is not Purchase.OWNED and _speed(snapshot, policy, one.gpu) is None for one in staying)
    for _ in range(min(missing, allowed)):
        fits = [c for c in candidates if c.offer.capacity is None or taken.get(c.offer.id, 0) < c.offer.capacity]
        fits = [c for c in fits if steady >= base or c.offer.purchase is not Purchase.SPOT]
        fits = [c for c in fits if c.offer.id in measured or not trying]
        if not fits:
            notes = (*notes, "no more offers may be taken: capacity, base_on_demand, or one unmeasured at a time")
            break
        found = fits[0]
        taken[found.offer.id] = taken.get(found.offer.id, 0) + 1
        steady += found.offer.purchase is not Purchase.SPOT
        trying = trying or found.offer.id not in measured
        launches.append(Launch(offer=found.offer, reason=f"{target.reason}; {found.reason}"))
    return tuple(launches), notes


def _candidates(snapshot: Snapshot, policy: Policy, spot_only: bool) -> tuple[list[selection.Ranked], tuple[str, ...]]:
    """Offers that may be taken now, best first: by provider preference, then by cost per image."""
    notes: list[str] = []
    ruled_out: list[str] = []
    usable: list[Offer] = []
    for offer in snapshot.offers:
        if not policy.allows(offer):
            ruled_out.append(f"{offer.id} ({offer.gpu}) is not what the spec allows")
            continue
        if spot_only and offer.purchase is Purchase.ON_DEMAND:
            ruled_out.append(f"{offer.id} is not a spot machine, and the budget allows no other")
            continue
        if offer.provider in snapshot.unreachable:
            continue
        if why := _avoided(offer, snapshot):
            notes.append(f"{offer.id} {why}")
            continue
        usable.append(offer)
    notes += ruled_out if not usable else []
    ranked = selection.rank(
        usable,
        snapshot.profiles,
        policy.model,
        policy.p95_ms,
        try_unmeasured=policy.try_unmeasured,
        currency=policy.currency,
        rates=policy.rates,
    )
    order = {name: place for place, name in enumerate(policy.providers)}
    eligible = [one for one in ranked if one.eligible]
    notes += [f"{one.offer.id}: {one.reason}" for one in ranked if not one.eligible]
    if not eligible:  # one's own machine, too slow, is better than none; the note says what it misses
        eligible = [one for one in ranked if one.offer.purchase is Purchase.OWNED]
    return sorted(eligible, key=lambda one: order[one.offer.provider]), tuple(dict.fromkeys(notes))


def _avoided(offer: Offer, snapshot: Snapshot) -> str | None:
    """Why a pool is left alone for a while: it refused, it took one back just now, or it has said that it will."""
    now = snapshot.now
    until = backed_off_until(offer)
    # what seems to have been in the future was before the clock was set back: it is not waited for
    if until is not None and offer.refused_at is not None and offer.refused_at <= now < until:
        return f"refused {offer.refusals} times: left alone until {until:%H:%M:%S} UTC"
    if offer.purchase is not Purchase.SPOT:
        return None
    if any(one.offer_id == offer.id and one.reclaim_at is not None for one in snapshot.instances):
        return "is taking a machine back: left alone"
    if offer.lost_at is not None and offer.lost_at <= now < offer.lost_at + AFTER_LOSS:
        return f"took a machine back: left alone until {offer.lost_at + AFTER_LOSS:%H:%M:%S} UTC"
    return None


def backed_off_until(offer: Offer) -> datetime | None:
    """When a pool may be asked again that refused, or whose machines came to nothing; None: it did not."""
    if offer.refused_at is None or offer.refusals == 0:
        return None
    wait = min(BACKOFF_FIRST * (1 << min(offer.refusals - 1, 16)), BACKOFF_LONGEST)
    return offer.refused_at + wait
