"""The one choice of machines: what `halve plan` shows is what the daemon takes first.

Providers are asked in the spec's order: the next one comes in only when those before it cannot carry the load. Machines
of one's own whose electricity is known are always among them. Within that, the exact program of `mix` decides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from policies import mix
from policies.advice import Advice, Demand, Terms
from policies.policy import Policy
from policies.program import Limits
from policies.selection import Ranked
from policies.smallest import unloaded
from policies.snapshot import Offer, Profile, Purchase


def fleet(
    offers: Sequence[Offer],
    profiles: Sequence[Profile],
    policy: Policy,
    images_per_second: float,
    least: int,
    most: int,
    today: Mapping[str, int] | None = None,
) -> Advice:
    """The fleet for this load, `least` to `most` replicas; for no load the smallest, of what is cheapest when busy.

    Where the load cannot be carried, the reason says so and the fleet is as large as it may be.
    """
    terms = _terms(policy, least, most)
    answer, _ = _asked(offers, policy, _question(profiles, terms, images_per_second, today))
    if answer.winner is not None or images_per_second <= 0:
        return answer
    largest = replace(terms, limits=replace(terms.limits, minimum=most))
    full, _ = _asked(offers, policy, _question(profiles, largest, 0.0))
    return replace(full, reason=f"{full.reason}; {answer.reason}")


def first(
    rows: Sequence[Ranked],
    profiles: Sequence[Profile],
    policy: Policy,
    images_per_second: float,
    least: int,
    most: int,
    today: Mapping[str, int],
) -> list[Ranked]:
    """Machines in the order in which they are to be taken: the missing ones of the fleet for this load, an offer as
    often as it is wanted, then all offers by rank.

    Where all are as fast and of one provider, the rank by cost per image is that order already.
    """
    speeds = {row.profile.images_per_second for row in rows if row.profile is not None}
    providers = {row.offer.provider for row in rows}
    if images_per_second <= 0 or (len(speeds) < 2 and len(providers) < 2):
        return [*rows]
    answer = fleet([row.offer for row in rows], profiles, policy, images_per_second, least, most, today)
    by_id = {row.offer.id: row for row in rows}
    parts = () if answer.winner is None else answer.winner.parts
    wanted: list[Ranked] = []
    for part in sorted(parts, key=lambda part: sum(part.images_per_second.values()), reverse=True):
        wanted += [by_id[part.offer.id]] * max(0, part.count - today.get(part.offer.id, 0))
    return [*wanted, *rows]


def near(
    rows: Sequence[Ranked],
    profiles: Sequence[Profile],
    policy: Policy,
    images_per_second: float,
    least: int,
    most: int,
) -> list[Ranked]:
    """Those of the providers that `fleet` would ask for this load; all, where nobody can carry it."""
    if len({row.offer.provider for row in rows}) < 2:
        return [*rows]
    question = _question(profiles, _terms(policy, least, most), images_per_second)
    answer, within = _asked([row.offer for row in rows], policy, question)
    asked = {offer.id for offer in within}
    return [row for row in rows if answer.winner is None or row.offer.id in asked]


def _question(
    profiles: Sequence[Profile], terms: Terms, images_per_second: float, today: Mapping[str, int] | None = None
) -> Callable[[Sequence[Offer]], Advice]:
    if images_per_second <= 0:
        return lambda within: unloaded(within, profiles, terms)
    demand = [Demand(name="", images_per_second=images_per_second, profiles=tuple(profiles))]
    return lambda within: mix.cheapest(within, demand, terms, today)


def _asked(
    offers: Sequence[Offer], policy: Policy, ask: Callable[[Sequence[Offer]], Advice]
) -> tuple[Advice, Sequence[Offer]]:
    """The answer of the first provider that has one, of the first two together, and so on; and who was asked last."""
    allowed = [offer for offer in offers if policy.allows(offer)]
    within: Sequence[Offer] = ()
    answer = ask(within)
    for count in range(1, len(policy.providers) + 1):
        nearest = policy.providers[:count]
        within = [one for one in allowed if one.provider in nearest or _paid_anyway(one, policy)]
        answer = ask(within)
        if answer.winner is not None:
            break
    return answer, within


def _paid_anyway(offer: Offer, policy: Policy) -> bool:
    return offer.purchase is Purchase.OWNED and offer.id in policy.marginal_micros


def _terms(policy: Policy, least: int, most: int) -> Terms:
    return Terms(
        model=policy.model,
        p95_ms=policy.p95_ms,
        limits=Limits(
            utilisation=policy.utilisation, minimum=least, maximum=most, steady=min(policy.base_on_demand, most)
        ),
        try_unmeasured=policy.try_unmeasured,
        currency=policy.currency,
        rates=policy.rates,
        marginal_micros=policy.marginal_micros,
        start_seconds=policy.start_seconds,
    )
