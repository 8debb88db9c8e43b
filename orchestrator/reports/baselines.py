"""Each deployment beside its baseline: which price holds for it, how long it lived, how busy it was."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from orchestrator.ledger.offers import Price
from orchestrator.ledger.reporting import Served
from orchestrator.ledger.tallies import Rates, Tally
from orchestrator.reports.prices import ListPrices, PriceLine, flat, price_line
from orchestrator.reports.savings import Savings, Work, waterfall
from orchestrator.reports.terms import Terms
from orchestrator.reports.words import Said
from policies.snapshot import Offer, Profile, Purchase
from policies.throughput import measured
from policies.windows import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """What is known of prices and speeds: all offers, their price history until the period's end, profiles by model."""

    offers: tuple[Offer, ...]
    history: tuple[Price, ...]
    profiles: Mapping[str, tuple[Profile, ...]]


def on_demand_lines(
    on_spot: Iterable[tuple[str, str]], market: Market, rates: Rates
) -> dict[tuple[str, str], PriceLine]:
    """By (provider, GPU) of what was had on spot: what it would have cost on demand, where that is known."""
    lines = {}
    for provider, gpu in on_spot:
        line = price_line(market.offers, market.history, gpu, Purchase.ON_DEMAND, rates, provider)
        if line is not None:
            lines[provider, gpu] = line
    return lines


def baseline_lines(terms: Iterable[Terms], market: Market, rates: Rates) -> dict[str, PriceLine]:
    """By deployment: what an hour of its baseline costs, where it has one and that is known."""
    found = {one.name: _baseline_price(one, market, rates) for one in terms if one.baseline is not None}
    return {name: line for name, line in found.items() if line is not None}


def savings(
    terms: Sequence[Terms],
    by_deployment: Mapping[str, Sequence[Tally]],
    served: Sequence[Served],
    market: Market,
    prices: Mapping[str, PriceLine],
    on_demand: ListPrices,
    period: Span,
    currency: str,
) -> tuple[Savings | None, tuple[Said, ...], list[Said]]:
    """The savings of all deployments that ran and have a baseline, the baselines in words, and what must be said.

    `prices` are those of the baselines. Savings are None when there is no baseline, or when a price that they rest on
    is unknown.
    """
    total: Savings | None = None
    against: list[Said] = []
    notes: list[Said] = []
    unknown = False
    for one in terms:
        mine = by_deployment.get(one.name, [])
        if not mine:
            continue
        if one.baseline is None:
            if not one.trouble:
                notes.append(Said("{name}: no baseline in its spec, so its savings are not measured", name=one.name))
            continue
        price = prices.get(one.name)
        if price is None:
            unknown = True
            what = {"gpu": one.baseline.gpu, "terms": one.baseline.purchase.value, "currency": currency}
            words = "{name}: no price is known for the baseline {gpu} {terms} in {currency}, so the savings are unknown"
            notes.append(Said(words, name=one.name, **what))
            continue
        lived = _lived(one, mine, period)
        opening = [clipped for span in one.opening if (clipped := _overlap(span, lived))]
        work = _work(one, served, market)
        found = waterfall(mine, lived, opening, one.baseline, price, on_demand, work)
        if found is None:
            unknown = True
            notes.append(Said("{name}: a price paid is unknown, so the savings are unknown", name=one.name))
            continue
        against.append(one.baseline.said())
        if found.basis != "same hours":
            notes.append(Said("{name} was busy: its GPU is compared by same images", name=one.name))
        total = found if total is None else total + found
    return (None if unknown else total), tuple(dict.fromkeys(against)), notes


def _baseline_price(terms: Terms, market: Market, rates: Rates) -> PriceLine | None:
    baseline = terms.baseline
    assert baseline is not None
    if baseline.price_per_hour_micros is None:
        return price_line(market.offers, market.history, baseline.gpu, baseline.purchase, rates)
    rate = rates.get(baseline.currency)
    return None if rate is None else flat(Fraction(baseline.price_per_hour_micros * rate))


def _lived(terms: Terms, charged: Sequence[Tally], period: Span) -> Span:
    """The part of the period in which the deployment lived: nothing is saved before it was put up or after its end."""
    starts = [one.starts_at for one in charged] + ([terms.since] if terms.since else [])
    start = max(period.opens_at, min(starts))
    if terms.until is None:
        return Span(opens_at=start, closes_at=period.closes_at)
    ends = [one.ends_at for one in charged]
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
