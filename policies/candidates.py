"""Which offers a deployment may take now: allowed, measured, not resting after a refusal; the best one first."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from policies import selection, throughput
from policies.lifecycle import LIVE, Status
from policies.policy import Policy
from policies.selection import Ranked
from policies.snapshot import Instance, Offer, Purchase, Snapshot
from policies.sources import UNOBTAINABLE, Source

#: a refused offer is left alone for FIRST x 2^(refusals - 1), at most LONGEST; spot pools have a memory of their own
BACKOFF_FIRST = timedelta(seconds=10)
BACKOFF_LONGEST = timedelta(minutes=15)


def candidates(snapshot: Snapshot, policy: Policy, spot_only: bool = False) -> tuple[list[Ranked], tuple[str, ...]]:
    """Offers that are no spot machines and may be taken now, the best first; and what was left out, in words."""
    notes: list[str] = []
    ruled_out: list[str] = []
    usable: list[Offer] = []
    for offer in snapshot.offers:
        if not policy.allows(offer):
            ruled_out.append(f"{offer.id} ({offer.gpu}) is not what the spec allows")
        elif spot_only and offer.purchase is Purchase.ON_DEMAND:
            ruled_out.append(f"{offer.id} is not a spot machine, and the budget allows no other")
        elif offer.provider in snapshot.unreachable or offer.purchase is Purchase.SPOT:
            continue
        elif why := _avoided(offer, snapshot.now):
            notes.append(f"{offer.id} {why}")
        else:
            usable.append(offer)
    notes += ruled_out if not usable else []
    ranked = _ranked(usable, snapshot, policy)
    eligible = [one for one in ranked if one.eligible]
    notes += [f"{one.offer.id}: {one.reason}" for one in ranked if not one.eligible]
    if not eligible:  # one's own machine, too slow, is better than none; the note says what it misses
        eligible = [one for one in ranked if one.offer.purchase is Purchase.OWNED]
    return by_preference(eligible, policy), tuple(dict.fromkeys(notes))


def eligible(snapshot: Snapshot, policy: Policy) -> list[Ranked]:
    """All offers that the spec allows and whose price and speed are known, whether or not one can be had now.

    Those that nobody measured are among them only where nothing measured is, and one may be tried.
    """
    ranked = _ranked([offer for offer in snapshot.offers if policy.allows(offer)], snapshot, policy)
    found = [one for one in ranked if one.eligible]
    measured = [one for one in found if one.profile is not None or one.offer.purchase is Purchase.OWNED]
    return by_preference(measured or found, policy)


def sources(ranked: Sequence[Ranked], snapshot: Snapshot, policy: Policy) -> tuple[Source, ...]:
    """The spot pools among eligible offers, in their order."""
    prices = _prices(ranked, snapshot, policy)
    return tuple(
        Source(offer=row.offer, price=price)
        for row in ranked
        if row.offer.purchase is Purchase.SPOT and (price := prices.get(row.offer.id)) is not None
    )


def on_demand_price(
    near: Sequence[Ranked], ranked: Sequence[Ranked], snapshot: Snapshot, policy: Policy
) -> float | None:
    """What the cheapest offer costs that nobody takes back, of the providers that come first; where they have none, one
    of any other is dearer than all that they have. None when none has a known price.
    """
    prices = _prices(near, snapshot, policy)
    steady = [prices.get(row.offer.id) for row in near if row.offer.purchase is not Purchase.SPOT]
    if known := [price for price in steady if price is not None]:
        return min(known)
    others = _prices(ranked, snapshot, policy)
    if not any(row.offer.id in others for row in ranked if row.offer.purchase is not Purchase.SPOT):
        return None
    return UNOBTAINABLE * max(prices.values(), default=1.0)


def hourly(snapshot: Snapshot, policy: Policy) -> dict[str, float]:
    """What an hour costs now, in micro-units of one currency, by offer, where that is known."""
    currency = policy.currency or next((o.currency for o in snapshot.offers if o.price_per_hour_micros is not None), "")
    prices = ((offer.id, selection.price_in(offer, currency, policy.rates)) for offer in snapshot.offers)
    return {name: float(price) for name, price in prices if price is not None}


def _prices(ranked: Sequence[Ranked], snapshot: Snapshot, policy: Policy) -> dict[str, float]:
    """By offer: an hour of as much throughput as the first spot offer's machine has; of its price where unmeasured."""
    hours = hourly(snapshot, policy)
    speeds = {row.offer.id: row.profile.images_per_second for row in ranked if row.profile is not None}
    of_spot = (speeds.get(row.offer.id) for row in ranked if row.offer.purchase is Purchase.SPOT)
    scale = next((images for images in of_spot if images), None)
    prices = {}
    for name in (row.offer.id for row in ranked if row.offer.id in hours):
        images = speeds.get(name)
        prices[name] = hours[name] / 1e6 * (scale / images if scale and images else 1.0)
    return prices


def by_preference(ranked: Iterable[Ranked], policy: Policy) -> list[Ranked]:
    """In the spec's order of providers, and as they were ranked within each; what is paid for anyway, and costs no more
    than its electricity, comes before all of them.
    """
    order = {name: place for place, name in enumerate(policy.providers)}

    def place(offer: Offer) -> int:
        paid = offer.purchase is Purchase.OWNED and offer.id in policy.marginal_micros
        return -1 if paid else order[offer.provider]

    return sorted(ranked, key=lambda one: place(one.offer))


def _ranked(offers: Sequence[Offer], snapshot: Snapshot, policy: Policy) -> Sequence[Ranked]:
    return selection.rank(
        offers,
        snapshot.profiles,
        policy.model,
        policy.p95_ms,
        try_unmeasured=policy.try_unmeasured,
        currency=policy.currency,
        rates=policy.rates,
    )


def _avoided(offer: Offer, now: datetime) -> str | None:
    until = backed_off_until(offer)
    # what seems to have been in the future was before the clock was set back: it is not waited for
    if until is not None and offer.refused_at is not None and offer.refused_at <= now < until:
        return f"refused {offer.refusals} times: left alone until {until:%H:%M:%S} UTC"
    return None


def backed_off_until(offer: Offer) -> datetime | None:
    """When an offer may be asked again that refused, or whose machines came to nothing; None: it did not."""
    if offer.refused_at is None or offer.refusals == 0:
        return None
    wait = min(BACKOFF_FIRST * (1 << min(offer.refusals - 1, 16)), BACKOFF_LONGEST)
    return offer.refused_at + wait


def speed(snapshot: Snapshot, policy: Policy, gpu: str) -> float | None:
    """Measured images a second of this GPU; None: not measured."""
    profile = throughput.measured(snapshot.profiles, policy.model, gpu, policy.p95_ms)
    return None if profile is None else profile.images_per_second


@dataclass(slots=True)
class Basket:
    """What is taken within one decision: no offer beyond its capacity, and one machine at most that nobody measured."""

    taken: dict[str, int]
    trying: bool
    left: int  # launches that may still be made
    chosen: list[tuple[Ranked, str]] = field(default_factory=list)

    @classmethod
    def of(cls, snapshot: Snapshot, policy: Policy, staying: Sequence[Instance], left: int) -> "Basket":
        """Empty, beside what runs."""
        taken: dict[str, int] = {}
        for one in snapshot.instances:
            if one.status in LIVE or one.status is Status.DRAINING:
                taken[one.offer_id] = taken.get(one.offer_id, 0) + 1
        rented = {one.gpu for one in staying if one.purchase is not Purchase.OWNED}
        trying = any(speed(snapshot, policy, gpu) is None for gpu in rented)
        return cls(taken=taken, trying=trying, left=left)

    def take(self, best_first: Iterable[Ranked], reason: str = "") -> Ranked | None:
        """The first that fits; None when none does. The reason is the candidate's own unless one is given."""
        if self.left <= 0:
            return None
        found = next((one for one in best_first if self._fits(one)), None)
        if found is not None:
            self.taken[found.offer.id] = self.taken.get(found.offer.id, 0) + 1
            self.trying = self.trying or not _known(found)
            self.left -= 1
            self.chosen.append((found, reason or found.reason))
        return found

    def free(self, offer: Offer) -> float:
        """How many more of this offer there are."""
        return math.inf if offer.capacity is None else max(0, offer.capacity - self.taken.get(offer.id, 0))

    def _fits(self, one: Ranked) -> bool:
        return self.free(one.offer) > 0 and (_known(one) or not self.trying)


def _known(one: Ranked) -> bool:
    return one.profile is not None or one.offer.purchase is Purchase.OWNED
