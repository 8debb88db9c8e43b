"""The only place where the policies meet: snapshot in, plan out."""

from collections.abc import Sequence

from policies import candidates, disruption, spot
from policies.candidates import Basket
from policies.disruption import Leaving
from policies.lifecycle import Status
from policies.plan import Action, Drain, Hours, Launch, Plan, Target, Terminate
from policies.policy import Policy
from policies.pursuit import pursued, without_job
from policies.replacement import cheaper_first, own_first
from policies.serving import Goal
from policies.snapshot import Purchase, Snapshot
from policies.sources import is_spot
from policies.stand import (
    Moves,
    Stand,
    buy,
    first,
    first_providers,
    kept,
    risk_left,
    stand_of,
    waiting,
    without_on_demand,
)

__all__ = ["Policy", "decide"]


def decide(snapshot: Snapshot, policy: Policy) -> Plan:
    """Compare what is with what should be. An unchanged world gives an empty plan."""
    lost_causes = disruption.doomed(snapshot.instances, policy.patience, snapshot.now, snapshot.unreachable)
    stand = stand_of(snapshot, policy, {one.instance.id for one in lost_causes})
    moves = pursued(snapshot, policy, stand)
    moves = moves or _on_spot(snapshot, policy, stand) or _by_rank(snapshot, policy, stand)
    actions: list[Action] = []
    most = (stand.bounds.max + policy.surge) if policy.wanted else 0
    crowd = disruption.beyond(stand.staying, moves.leaving, most, stand.outdated)
    for one in (*lost_causes, *moves.leaving, *crowd):
        if one.instance.status is Status.READY:
            actions.append(Drain(instance_id=one.instance.id, reason=one.reason))
        elif not disruption.awaits_reclaim(one.instance, snapshot.now):
            actions.append(Terminate(instance_id=one.instance.id, reason=one.reason))
    for instance in snapshot.instances:
        if reason := disruption.finished(instance, policy.patience, snapshot.now):
            actions.append(Terminate(instance_id=instance.id, reason=reason))
    notes = moves.notes
    if stand.capped.note:
        notes = (stand.capped.note, *notes)
    if away := snapshot.unreachable.intersection(policy.providers):
        notes = (*notes, f"{', '.join(sorted(away))} cannot be reached: held as it is, nothing is launched there")
    if snapshot.strangers:
        notes = (*notes, f"not in this ledger, but ours by their tag: {', '.join(snapshot.strangers)}")
    return Plan(
        target=moves.target or stand.target,
        hours=_hours(policy, stand),
        actions=(*actions, *moves.launches),
        notes=notes,
        memory=moves.memory | without_job(snapshot),
    )


def _hours(policy: Policy, stand: Stand) -> Hours:
    bounds, capped = stand.bounds, stand.capped
    if not policy.wanted or (bounds.open and capped.stopped):
        return Hours(open=False, opens_at=None, reason=capped.target.reason)
    return Hours(open=bounds.open, opens_at=bounds.opens_at, reason=bounds.reason)


def _by_rank(snapshot: Snapshot, policy: Policy, stand: Stand) -> Moves:
    """Machines that nobody takes back: the missing ones of the best offers."""
    stand = cheaper_first(own_first(stand, policy, snapshot), policy, snapshot)
    target = stand.target
    gone = disruption.leaving(stand.staying, target.replicas, policy.surge, stand.outdated)
    memory = kept(placement=spot.asleep(snapshot.now, snapshot.memory.get("placement")))
    missing = min(target.replicas - len(stand.current), target.replicas + policy.surge - len(stand.staying))
    if missing <= 0:
        return Moves(leaving=gone, memory=memory)
    if stand.launches_left <= 0:
        return Moves(leaving=gone, notes=waiting(snapshot, stand), memory=memory)
    found, notes = candidates.candidates(snapshot, policy, stand.capped.spot_only)
    if not found:
        notes = (*notes, f"{missing} replicas are missing and no offer can be taken now")
        return Moves(leaving=gone, notes=notes, memory=memory)
    basket = Basket.of(snapshot, policy, stand.staying, min(missing, stand.launches_left))
    ordered = first(found, snapshot, policy, stand.bounds, stand.staying)
    for row in ordered[: len(ordered) - len(found)]:
        basket.take([row])
    while basket.take(found) is not None:
        pass
    if basket.left > 0:
        notes = (*notes, "no more offers may be taken: capacity, or one unmeasured at a time")
    return Moves(leaving=gone, launches=_launched(basket, target), notes=notes, memory=memory)


def _on_spot(snapshot: Snapshot, policy: Policy, stand: Stand) -> Moves | None:
    """Machines of one's own where they come first, for the rest what the placement policy says; None: no spot."""
    if stand.target.replicas == 0 or not policy.takes_spot:
        return None
    changed, stand = bool(stand.outdated), risk_left(stand, policy, snapshot)
    ranked = candidates.eligible(snapshot, policy)
    steady, notes = candidates.candidates(snapshot, policy, stand.capped.spot_only)
    place = next((at for at, row in enumerate(ranked) if row.offer.purchase is Purchase.SPOT), len(ranked))
    mine = {row.offer.id for row in ranked[:place] if row.offer.purchase is Purchase.OWNED}
    beyond = tuple(one for one in stand.current if one.offer_id not in mine)
    basket = Basket.of(snapshot, policy, stand.staying, min(stand.launches_left, stand.room))
    owned = [row for row in steady if row.offer.id in mine]
    rest = stand.target.replicas - (len(stand.current) - len(beyond)) - sum(basket.free(row.offer) for row in owned)
    if rest <= 0:
        return None
    others = [row for row in ranked if row.offer.id not in mine]
    near = first_providers(others, snapshot, policy, stand.bounds, round(rest))
    terms = {*(one.purchase for one in beyond), *(row.offer.purchase for row in near)}
    if Purchase.SPOT not in terms:
        return None
    # refused launches must not use up the runaway bound
    spots = stand.launches_left - stand.bounds.max if steady else stand.launches_left
    scene = spot.Scene(
        now=snapshot.now,
        sources=candidates.sources(near, snapshot, policy),
        on_demand_price=candidates.on_demand_price(near, others, snapshot, policy) if steady else None,
        machines=beyond,
        going=(*spot.returning(snapshot.instances), *stand.at_risk),
        replaced=changed,
        full=stand.room == 0 and spots > 0 and not snapshot.unreachable,
    )
    goal = _goal(policy, stand, round(rest))
    answer = spot.answer(scene, goal, policy.placing, snapshot.memory.get("placement"))
    while basket.take(owned) is not None:
        pass
    if any(offer is None for offer, _ in answer.launches):
        steady = first(steady, snapshot, policy, stand.bounds, stand.staying)
    kept_up = min(len(stand.at_risk), max(0, goal.replicas - len(beyond)))
    base = max(0, goal.base_on_demand - sum(not is_spot(one) for one in beyond))  # it is promised whatever is at risk
    wishes = without_on_demand(answer.launches, min(kept_up, sum(offer is None for offer, _ in answer.launches) - base))
    spots = min(spots, basket.left - base if steady else max(basket.left - base, goal.replicas - len(beyond)))
    missed = buy(basket, wishes, snapshot, ranked, steady, spots, answer.waits)
    short = missed or len(stand.current) + len(basket.chosen) < stand.target.replicas
    replaced = disruption.outdated(stand.staying, stand.target.replicas, policy.surge, stand.outdated)
    return Moves(
        leaving=(*replaced, *_gentle(answer.stops, replaced, stand, policy)),
        launches=_launched(basket, stand.target),
        notes=(
            *waiting(snapshot, stand),
            *(answer.notes if short or basket.chosen else ()),
            *(notes if short else ()),
        ),
        memory=kept(placement=answer.memory),
    )


def _gentle(stops: Sequence[Leaving], replaced: Sequence[Leaving], stand: Stand, policy: Policy) -> tuple[Leaving, ...]:
    """Of those that may go, no more that serve than leave enough: a machine of one's own that was counted on may still
    start. Without surge there is no place for it before somebody goes.
    """
    gone = sum(one.instance.status is Status.READY for one in replaced)
    spare = sum(one.status is Status.READY for one in stand.staying) - gone - stand.target.replicas
    serving = [one for one in stops if one.instance.status is Status.READY]
    kept = serving[max(0, spare) :] if policy.surge else []
    return tuple(one for one in stops if one not in kept)


def _goal(policy: Policy, stand: Stand, replicas: int) -> Goal:
    """So many beyond one's own machines, which are a base that nobody takes back."""
    base = 0 if stand.capped.spot_only else policy.base_on_demand  # the budget's word is the last one
    return Goal(
        replicas=replicas,
        cold_start_seconds=policy.start_seconds,
        availability=policy.availability,
        base_on_demand=max(0, min(base - (stand.target.replicas - replicas), replicas)),
        guard=policy.guard,
    )


def _launched(basket: Basket, target: Target) -> tuple[Launch, ...]:
    return tuple(Launch(offer=row.offer, reason=f"{target.reason}; {reason}") for row, reason in basket.chosen)
