"""Which offers: price over measured throughput, under a latency bound. Unknown is never chosen silently."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from policies.snapshot import Offer, Profile, Purchase
from policies.throughput import cost_per_1000_micros, keeps, measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """An offer, the profile that speaks for it, what 1,000 images cost there (in the ranking's currency), and why."""

    offer: Offer
    profile: Profile | None
    cost_per_1000_micros: int | None
    eligible: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The offer to take, what would be taken without it, and the reason in words for the person paying."""

    winner: Ranked | None
    runner_up: Ranked | None
    reason: str


def choose(
    offers: Sequence[Offer],
    profiles: Sequence[Profile],
    model: str,
    p95_ms_bound: float | None = None,
    *,
    try_unmeasured: bool = False,
    currency: str = "",
    rates: Mapping[str, Fraction] | None = None,
) -> Choice:
    """The cheapest eligible offer per image, as `rank` orders them; the runner-up has another GPU or other terms."""
    ranked = rank(offers, profiles, model, p95_ms_bound, try_unmeasured=try_unmeasured, currency=currency, rates=rates)
    eligible = [row for row in ranked if row.eligible]
    if not eligible:
        why = "; ".join(f"{row.offer.gpu}: {row.reason}" for row in ranked[:3]) or "no offers"
        return Choice(winner=None, runner_up=None, reason=f"nothing to choose ({why})")
    winner = eligible[0]
    terms = (winner.offer.gpu, winner.offer.purchase)
    others = [row for row in eligible[1:] if (row.offer.gpu, row.offer.purchase) != terms]
    runner_up = others[0] if others else None
    return Choice(winner=winner, runner_up=runner_up, reason=f"{winner.offer.gpu}: {winner.reason}")


def rank(
    offers: Sequence[Offer],
    profiles: Sequence[Profile],
    model: str,
    p95_ms_bound: float | None = None,
    *,
    try_unmeasured: bool = False,
    currency: str = "",
    rates: Mapping[str, Fraction] | None = None,
) -> tuple[Ranked, ...]:
    """Every offer with its verdict, the cheapest eligible one first, the ineligible ones last.

    Order: by cost per image where it is known; then owned machines whose cost is unknown (they stay eligible: nobody is
    paid for one more hour of them; a preference between providers is the caller's); then, with `try_unmeasured`, GPUs
    that nobody measured, by price: one is tried only when nothing measured fits.
    Prices are compared in `currency` ("" = that of the first priced offer); others need a rate: rates["USD"] is how
    much one USD is worth in it.
    """
    currency = currency or next((o.currency for o in offers if o.price_per_hour_micros is not None), "")
    judged = [_judge(o, measured(profiles, model, o.gpu, p95_ms_bound), p95_ms_bound, currency, rates) for o in offers]
    if try_unmeasured:
        judged = [_try(row, price) for row, price in judged]
    judged.sort(key=_order)
    return tuple(_explained([row for row, _ in judged], p95_ms_bound, currency))


def price_in(offer: Offer, currency: str, rates: Mapping[str, Fraction] | None) -> Fraction | None:
    """The offer's hourly price in micro-units of `currency`; None when it is unknown or there is no rate."""
    if offer.price_per_hour_micros is None:
        return None
    rate = Fraction(1) if offer.currency == currency else (rates or {}).get(offer.currency)
    return None if rate is None else offer.price_per_hour_micros * rate


#: a verdict and the price it rests on, in the ranking's currency
Verdict = tuple[Ranked, Fraction | None]


def _judge(
    offer: Offer,
    profile: Profile | None,
    bound: float | None,
    currency: str,
    rates: Mapping[str, Fraction] | None,
) -> Verdict:
    price = price_in(offer, currency, rates)
    speed = None if profile is None else profile.images_per_second
    cost = cost_per_1000_micros(None if price is None else round(price), speed)
    owned = offer.purchase is Purchase.OWNED
    eligible, reason = True, ""
    if profile is not None and bound is not None and not keeps(profile, bound) and (profile.p95_ms or not owned):
        late = "p95 unknown" if profile.p95_ms is None else f"p95 {profile.p95_ms / 1000:.3g} s"
        eligible, reason = False, f"{late}, wanted {bound / 1000:.3g} s"
    elif price is None:
        no_rate = offer.price_per_hour_micros is not None
        unknown = f"no rate from {offer.currency} to {currency}" if no_rate else "price unknown"
        eligible, reason = owned, f"own machine, {unknown}" if owned else unknown
    elif profile is None:
        eligible, reason = owned, "own machine, speed not measured" if owned else "speed not measured"
    verdict = Ranked(offer=offer, profile=profile, cost_per_1000_micros=cost, eligible=eligible, reason=reason)
    return verdict, price


def _try(row: Ranked, price: Fraction | None) -> Verdict:
    if row.eligible or row.profile is not None or price is None:
        return row, price
    reason = "speed not measured: one may be tried"
    tried = Ranked(offer=row.offer, profile=None, cost_per_1000_micros=None, eligible=True, reason=reason)
    return tried, price


def _order(verdict: Verdict) -> tuple[object, ...]:
    row, price = verdict
    cost = row.cost_per_1000_micros
    group = 0 if cost is not None else 1 if row.offer.purchase is Purchase.OWNED else 2
    return (
        not row.eligible,
        group,
        cost or 0,
        price is None,
        price or 0,
        row.offer.purchase is Purchase.SPOT,  # at the same price it is better not to lose the machine
        row.offer.gpu,
        row.offer.id,
    )


def _explained(rows: list[Ranked], bound: float | None, currency: str) -> list[Ranked]:
    """Give eligible rows of known cost their reason: the cheapest is first, the others say by how much they are not."""
    best = next((row.cost_per_1000_micros for row in rows if row.eligible), None)
    promise = "" if bound is None else f" within {bound / 1000:.3g} s"
    explained = []
    for place, row in enumerate(rows):
        reason = row.reason
        if row.eligible and not reason and row.cost_per_1000_micros is not None:
            if place == 0:
                reason = f"cheapest per image{promise}: {row.cost_per_1000_micros / 1e6:.4f} {currency} per 1,000"
            elif best:
                reason = f"{row.cost_per_1000_micros / best - 1:+.0%} per image"
            else:
                reason = "dearer per image"
        explained.append(
            Ranked(
                offer=row.offer,
                profile=row.profile,
                cost_per_1000_micros=row.cost_per_1000_micros,
                eligible=row.eligible,
                reason=reason,
            )
        )
    return explained
