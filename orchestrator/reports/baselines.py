"""Each deployment beside its baseline: which price holds for it, how long it lived, how busy it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from orchestrator.ledger.offers import Price
from orchestrator.ledger.reporting import Booked, Served
from orchestrator.reports.prices import Rates, flat, price_line
from orchestrator.reports.savings import Savings, Work, waterfall
from orchestrator.reports.terms import Terms
from policies.snapshot import Offer, Profile, Purchase
from policies.throughput import measured
from policies.windows import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """What is known of prices and speeds: all offers, their price history until the period's end, profiles by model."""

    offers: tuple[Offer, ...]
    history: tuple[Price, ...]
    profiles: Mapping[str, tuple[Profile, ...]]


def savings(
    terms: Sequence[Terms],
    booked: Sequence[Booked],
    served: Sequence[Served],
    market: Market,
    period: Span,
    currency: str,
    rates: Rates,
) -> tuple[Savings | None, str, list[str]]:
    """The savings of all deployments that ran and have a baseline, the baselines in words, and what must be said.

    Savings are None when there is no baseline, or when a price that they rest on is unknown.
    """
    total: Savings | None = None
    against: list[str] = []
    notes: list[str] = []
    unknown = False
    for one in terms:
        mine = [charge for charge in booked if charge.deployment == one.name]
        if not mine:
            continue
        if one.baseline is None:
            notes += [] if one.trouble else [f"{one.name}: no baseline in its spec, so its savings are not measured"]
            continue
        found = _saved(one, mine, served, market, period, currency, rates)
        if isinstance(found, str):
            unknown = True
            notes.append(f"{one.name}: {found}, so the savings are unknown")
            continue
        against.append(str(one.baseline))
        notes += [] if found.basis == "same hours" else [f"{one.name} was busy: its GPU is compared by {found.basis}"]
        total = found if total is None else total + found
    return (None if unknown else total), "; ".join(dict.fromkeys(against)), notes


def _saved(
    terms: Terms,
    booked: Sequence[Booked],
    served: Sequence[Served],
    market: Market,
    period: Span,
    currency: str,
    rates: Rates,
) -> Savings | str:
    baseline = terms.baseline
    assert baseline is not None
    if baseline.price_per_hour_micros is not None:
        rate = rates.get(baseline.currency)
        price = None if rate is None else flat(Fraction(baseline.price_per_hour_micros * rate))
    else:
        price = price_line(market.offers, market.history, baseline.gpu, baseline.purchase, rates)
    if price is None:
        return f"no price is known for the baseline {baseline.gpu} {baseline.purchase.value} in {currency}"
    on_demand = {}
    for provider, gpu in {(one.provider, one.gpu) for one in booked if one.purchase is Purchase.SPOT}:
        line = price_line(market.offers, market.history, gpu, Purchase.ON_DEMAND, rates, provider)
        if line is not None:
            on_demand[provider, gpu] = line
    lived = _lived(terms, booked, period)
    opening = [clipped for span in terms.opening if (clipped := _overlap(span, lived))]
    work = _work(terms, served, market)
    return waterfall(booked, lived, opening, baseline, price, on_demand, work, rates) or "a price paid is unknown"


def _lived(terms: Terms, booked: Sequence[Booked], period: Span) -> Span:
    """The part of the period in which the deployment lived: nothing is saved before it was put up or after its end."""
    starts = [one.charge.started_at for one in booked] + ([terms.since] if terms.since else [])
    start = max(period.opens_at, min(starts))
    if terms.until is None:
        return Span(opens_at=start, closes_at=period.closes_at)
    ends = [one.charge.ended_at or period.closes_at for one in booked]
    return Span(opens_at=start, closes_at=max(start, min(period.closes_at, max(terms.until, *ends))))


def _overlap(one: Span, other: Span) -> Span | None:
    start, end = max(one.opens_at, other.opens_at), min(one.closes_at, other.closes_at)
    return Span(opens_at=start, closes_at=end) if start < end else None


def _work(terms: Terms, served: Sequence[Served], market: Market) -> Work:
    """The images of a deployment, and how long they keep its own GPUs and the baseline's busy at measured speeds."""
    profiles = market.profiles.get(terms.model, ())
    mine = [one for one in served if one.deployment == terms.name]
    images = sum(one.images for one in mine)

    def seconds(count: int, gpu: str) -> Fraction | None:
        profile = measured(profiles, terms.model, gpu)
        speed = profile.images_per_second if profile else None
        return count / Fraction(speed) if speed else None

    own = [seconds(one.images, one.gpu) for one in mine]
    baseline_gpu = terms.baseline.gpu if terms.baseline else ""
    known = [one for one in own if one is not None]
    return Work(
        images=images,
        seconds=sum(known, Fraction(0)) if len(known) == len(own) else None,
        baseline_seconds=seconds(images, baseline_gpu),
    )
