"""Rented machines that serve well, and are left for better ones: of one's own, or cheaper."""

import math
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from itertools import takewhile

from policies import candidates, disruption
from policies.candidates import Basket
from policies.policy import Policy
from policies.selection import Ranked
from policies.snapshot import Instance, Offer, Purchase, Snapshot
from policies.stand import Stand, first

#: nobody moves for less than this share of the new price: two are paid while the other starts
WORTH_MOVING = 0.15
#: nor to an offer that refused, or whose machines came to nothing, within so long
REFUSED_LATELY = timedelta(hours=6)


def own_first(stand: Stand, policy: Policy, snapshot: Snapshot) -> Stand:
    """Where machines of one's own come first, the rented ones that they leave no need for count as outdated: as many as
    are more than enough, and one more while a place of one's own is free that is taken before any other.

    That one is as old as SETTLED: who comes and goes is not followed each time. Without surge nobody is replaced, and
    nobody by a slower machine where the number follows the load: more would be wanted then.
    """
    target = stand.target.replicas
    rented = [one for one in stand.current if one.purchase is not Purchase.OWNED]
    some = rented and any(one.purchase is Purchase.OWNED for one in snapshot.offers)
    if not (some and stand.bounds.open and policy.surge > 0 and 0 < target <= len(stand.current)):
        return stand
    rows = takewhile(lambda row: row.offer.purchase is Purchase.OWNED, candidates.eligible(snapshot, policy))
    mine = {row.offer.id: row.offer.gpu for row in rows}
    if not mine:
        return stand
    order = sorted(rented, key=lambda one: (one.purchase is Purchase.SPOT, one.requested_at))
    if stand.bounds.min < stand.bounds.max:
        least = min(candidates.speed(snapshot, policy, gpu) or 0.0 for gpu in mine.values())
        order = [one for one in order if (candidates.speed(snapshot, policy, one.gpu) or math.inf) <= least]
    more = len(stand.current) - target if any(one.offer_id in mine for one in stand.current) else 0
    gone, others = order[:more], order[more:]
    if (
        others
        and snapshot.now - others[0].requested_at >= disruption.SETTLED
        and (row := _next(stand, policy, snapshot)) is not None
        and row.offer.id in mine
    ):
        gone.append(others[0])
    return _outdated(stand, gone, disruption.NEEDLESS)


def cheaper_first(stand: Stand, policy: Policy, snapshot: Snapshot) -> Stand:
    """Where the machine that would be taken now is cheaper than one that is rented on demand, and no slower, that one
    counts as outdated: the dearest, one at a time; and of more than enough, the dearer ones.

    It is as old as SETTLED, what is saved until closing time is more than the start costs, nobody else moves, and fewer
    were launched within the hour than may be up: prices that come and go are not followed each time, and the launches
    that a loss may need are left. The first one is to have lived so long before others follow it to the same offer.
    Without surge nobody is replaced.
    """
    target = stand.target.replicas
    if stand.outdated or not (stand.bounds.open and policy.surge > 0 and 0 < target <= len(stand.current)):
        return stand
    prices = candidates.hourly(snapshot, policy)
    rented = [one for one in stand.current if one.purchase is Purchase.ON_DEMAND and one.offer_id in prices]
    rented.sort(key=lambda one: (-prices[one.offer_id], one.requested_at))

    def dearer(one: Instance, offer_id: str, gpu: str) -> bool:
        if prices[one.offer_id] <= (1 + WORTH_MOVING) * prices.get(offer_id, math.inf):
            return False
        speed, other = (candidates.speed(snapshot, policy, name) for name in (one.gpu, gpu))
        return speed is not None and other is not None and other >= speed

    if more := len(stand.current) - target:
        gone = [one for one in rented[:more] if any(dearer(one, other.offer_id, other.gpu) for other in stand.current)]
        return _outdated(stand, gone, disruption.DEARER)
    launched = policy.launches_per_hour(stand.bounds.max) - stand.launches_left
    settled = rented and snapshot.now - rented[0].requested_at >= disruption.SETTLED
    steady = (offer for offer in snapshot.offers if offer.purchase is Purchase.ON_DEMAND and policy.allows(offer))
    # the usual case costs little: nothing is cheaper
    if not (settled and launched < stand.bounds.max and any(dearer(rented[0], one.id, one.gpu) for one in steady)):
        return stand
    row = _next(stand, policy, snapshot)
    if row is None or not dearer(rented[0], row.offer.id, row.offer.gpu) or not _trusted(row.offer, stand, snapshot):
        return stand
    closes_at, old, new = stand.bounds.closes_at, prices[rented[0].offer_id], prices[row.offer.id]
    left = math.inf if closes_at is None else (closes_at - snapshot.now).total_seconds()
    pays = left * (old - new) > policy.start_seconds * new  # both are paid while the new one starts
    return _outdated(stand, rented[:1], disruption.DEARER) if pays else stand


def _next(stand: Stand, policy: Policy, snapshot: Snapshot) -> Ranked | None:
    """The machine that would be taken now, were one missing."""
    found, _ = candidates.candidates(snapshot, policy, stand.capped.spot_only)
    basket = Basket.of(snapshot, policy, stand.staying, stand.launches_left)
    ordered = first(found, snapshot, policy, stand.bounds, stand.staying)
    return next((row for row in ordered if basket.take([row])), None)


def _trusted(offer: Offer, stand: Stand, snapshot: Snapshot) -> bool:
    """It has not refused lately, and the first machine that tries it, if there is one, is SETTLED."""
    if offer.refused_at is not None and timedelta(0) <= snapshot.now - offer.refused_at < REFUSED_LATELY:
        return False
    since = min((one.requested_at for one in stand.current if one.offer_id == offer.id), default=None)
    return since is None or snapshot.now - since >= disruption.SETTLED


def _outdated(stand: Stand, gone: Iterable[Instance], why: str) -> Stand:
    return replace(stand, outdated={**stand.outdated, **{one.id: why for one in gone}})
