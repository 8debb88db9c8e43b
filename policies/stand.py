"""Where a deployment stands before anything is bought or given up, and how it may move from there."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from policies import budget, candidates, choice, disruption, due, placement, scaling, windows
from policies.candidates import Basket
from policies.disruption import Leaving
from policies.lifecycle import LIVE, STARTING
from policies.plan import Launch, Target
from policies.policy import HAZARD, Policy
from policies.selection import Ranked
from policies.snapshot import Instance, Offer, Snapshot
from policies.sources import Plain

#: a spot machine is taken back so long after its notice
NOTICE_SECONDS = 120.0
#: an offer, or None: something on demand; and why
Wishes = Sequence[tuple[Offer | None, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """What holds for the whole decision."""

    bounds: windows.Bounds
    capped: budget.Capped
    staying: tuple[Instance, ...]  # live, and nothing says that they must go
    outdated: Mapping[str, str]  # of those, by id: they run by an older spec or are no longer allowed; and why
    launches_left: int  # by the runaway bound
    room: int  # so many more may be up

    @property
    def target(self) -> Target:
        return self.capped.target

    @property
    def current(self) -> tuple[Instance, ...]:
        return tuple(one for one in self.staying if one.id not in self.outdated)

    @property
    def at_risk(self) -> tuple[Instance, ...]:
        """Those that are to be left by their provider's word."""
        return tuple(one for one in self.staying if self.outdated.get(one.id) == disruption.RECOMMENDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """Who leaves, what is launched, and what is to be remembered of it."""

    target: Target | None = None  # None: as it was
    leaving: tuple[Leaving, ...] = ()
    launches: tuple[Launch, ...] = ()
    notes: tuple[str, ...] = ()
    memory: dict[str, Plain] = field(default_factory=dict)


def stand_of(snapshot: Snapshot, policy: Policy, dropped: Collection[str]) -> Stand:
    """Without the machines that are `dropped` anyway."""
    staying = tuple(
        one for one in snapshot.instances if one.status in LIVE and one.id not in dropped and not one.terminating
    )
    outdated = {
        one.id: disruption.CHANGED for one in staying if one.digest != snapshot.digest or not policy.allows(one)
    }
    bounds = _bounds(snapshot, policy, len(staying) - len(outdated))
    if policy.wanted:
        target = _target(snapshot, policy, bounds, staying)
    else:
        target = Target(replicas=0, reason="taken down")
    recent = sum(at <= snapshot.now for at in snapshot.recent_launches)  # none of the future: clocks are set back
    return Stand(
        bounds=bounds,
        capped=budget.cap(target, bounds.min, snapshot.spend, policy.limit),
        staying=staying,
        outdated=outdated,
        launches_left=max(0, policy.launches_per_hour(bounds.max) - recent),
        room=max(0, bounds.max + policy.surge - len(staying)),
    )


def risk_left(stand: Stand, policy: Policy, snapshot: Snapshot) -> Stand:
    """Where machines are to be left by their provider's word: they count as outdated, and as many may be launched as
    are missing beside them, and those that replace them.

    Without surge nobody is: two minutes' notice cost less than a gap. With a guard a whole pool may be lost anyway.
    Published rules would buy the next one in the same pool, and some never stop a spot machine.
    """
    target = stand.target.replicas
    followed = policy.surge > 0 and not policy.guard and stand.bounds.open and policy.placing == HAZARD
    settled = timedelta(0) if _starts_slowly(policy) else disruption.SETTLED
    risky = disruption.at_risk(stand.current, target, snapshot.now, settled) if followed else {}
    if not risky:
        return stand
    room = max(0, target + policy.surge - len(stand.staying))
    return replace(stand, outdated={**stand.outdated, **risky}, room=min(stand.room, room))


def _starts_slowly(policy: Policy) -> bool:
    """Whether the gap that a notice leaves costs more than a machine's hour: the first one, free where it is taken back
    within it, is then not waited for.
    """
    gap_hours = max(0.0, policy.start_seconds - NOTICE_SECONDS) / 3600
    return gap_hours * placement.PRICE_OF_OUTAGE > max(1e-6, 1.0 - policy.availability)


def _bounds(snapshot: Snapshot, policy: Policy, up: int) -> windows.Bounds:
    """The schedule's. Closed, but one hold-down before an opening, who is up stays, and nobody is launched: a shorter
    start that was measured meanwhile has put off the pre-warming, or the gap between two windows is short.
    """
    bounds = windows.bounds(policy.schedule, snapshot.now)
    if bounds.open or bounds.prewarm or bounds.opens_at is None or up == 0:
        return bounds
    if bounds.opens_at - snapshot.now > timedelta(seconds=scaling.hold_down_seconds(policy.start_seconds)):
        return bounds
    ahead = windows.bounds(policy.schedule, bounds.opens_at)
    return replace(
        bounds,
        prewarm=True,
        min=min(up, ahead.min),
        max=min(up, ahead.max),
        reason=f"{bounds.reason}, who is up is kept for it",
    )


def _target(snapshot: Snapshot, policy: Policy, bounds: windows.Bounds, staying: Sequence[Instance]) -> Target:
    """How many: when more are to come, each brings what the machine brings that would be taken next."""
    there = replicas_of(snapshot, policy, staying)
    target = scaling.target(snapshot.load, snapshot.jobs, there, bounds, scaling_of(snapshot, policy))
    if target.replicas > len(staying):
        rows = first(candidates.eligible(snapshot, policy), snapshot, policy, bounds, staying)
        target = scaling.target(snapshot.load, snapshot.jobs, there, bounds, scaling_of(snapshot, policy, rows))
    return due.raised(target, snapshot, policy, bounds, len(staying))


def first(
    rows: Sequence[Ranked],
    snapshot: Snapshot,
    policy: Policy,
    bounds: windows.Bounds,
    staying: Sequence[Instance],
) -> list[Ranked]:
    """In the order in which `halve plan` would have them for the load of now."""
    today = Counter(one.offer_id for one in staying)
    asked = scaling.asked(snapshot.load)
    return choice.first(rows, snapshot.profiles, policy, asked, bounds.min, max(1, bounds.max), today)


def first_providers(
    rows: Sequence[Ranked], snapshot: Snapshot, policy: Policy, bounds: windows.Bounds, replicas: int
) -> list[Ranked]:
    """Those that are enough for the load of now, in the spec's order, as `halve plan` would have them."""
    most = max(1, bounds.max, replicas)
    return choice.near(rows, snapshot.profiles, policy, scaling.asked(snapshot.load), replicas, most)


def replicas_of(snapshot: Snapshot, policy: Policy, up: Sequence[Instance]) -> scaling.Replicas:
    """Those that are up, with their speeds, and what was decided of their number."""
    speeds = {gpu: candidates.speed(snapshot, policy, gpu) for gpu in {one.gpu for one in up}}
    raised = None if snapshot.raised_at is None else (snapshot.now - snapshot.raised_at).total_seconds()
    return scaling.Replicas(
        speeds=tuple(speeds[one.gpu] for one in up),
        starting=sum(one.status in STARTING for one in up),
        last_target=snapshot.last_target,
        raised_seconds_ago=raised if raised is None or raised >= 0 else None,  # none of the future
    )


def scaling_of(snapshot: Snapshot, policy: Policy, rows: Sequence[Ranked] | None = None) -> scaling.Scaling:
    """What one more replica brings: one of the first of these offers, else of the best there is."""
    rows = candidates.eligible(snapshot, policy) if rows is None else rows
    speeds = (one.profile.images_per_second for one in rows if one.profile is not None)
    return scaling.Scaling(
        images_per_second=next(speeds, None), utilisation=policy.utilisation, start_seconds=policy.start_seconds
    )


def buy(
    basket: Basket,
    wanted: Wishes,
    snapshot: Snapshot,
    ranked: Sequence[Ranked],
    steady: Sequence[Ranked],
    spots: int,
    waits: int = 0,
) -> bool:
    """Put what is wanted into the basket, at most so many spot machines. Returns whether something could not be had.

    Of what is wanted on demand, `waits` at most wait for as many of the spot machines that are asked for now: whether
    they are given is known at the next tick.
    """
    pools = {row.offer.id: row for row in ranked if row.offer.provider not in snapshot.unreachable}
    missed, asked = False, 0
    for offer, reason in wanted:  # spot comes first
        if offer is None and min(waits, asked) > 0:
            waits, asked = waits - 1, asked - 1
        elif offer is None:
            missed |= basket.take(steady, reason) is None
        elif spots > 0 and offer.id in pools and basket.take([pools[offer.id]], reason) is not None:
            spots, asked = spots - 1, asked + 1
        else:
            missed = True
    return missed


def without_on_demand(wishes: Wishes, count: int) -> Wishes:
    """Without so many of those on demand: what is only recommended to be left serves on until spot is had elsewhere."""
    left, kept = count, []
    for offer, reason in reversed(wishes):
        if offer is None and left > 0:
            left -= 1
        else:
            kept.append((offer, reason))
    return tuple(reversed(kept))


def waiting(snapshot: Snapshot, stand: Stand) -> tuple[str, ...]:
    """A word when the runaway bound leaves no launches."""
    if stand.launches_left > 0:
        return ()
    recent = sum(at <= snapshot.now for at in snapshot.recent_launches)
    return (f"{recent} launches in the last hour: waiting (runaway bound)",)


def kept(**memory: Plain | None) -> dict[str, Plain]:
    """By policy, without what is still true."""
    return {name: plain for name, plain in memory.items() if plain is not None}
