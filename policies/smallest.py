"""The smallest fleet: where no load is known, or nobody has measured what could carry it."""

from collections.abc import Iterator, Sequence

from policies.advice import Advice, Demand, Mix, Part, Terms
from policies.selection import Choice, Ranked, choose, price_in, rank
from policies.snapshot import Offer, Profile, Purchase


def unloaded(offers: Sequence[Offer], profiles: Sequence[Profile], terms: Terms) -> Advice:
    """Where no load is known yet: the minimum, one at least, of the offer that is cheapest per image when busy, and of
    the next one where it has not so many. What is never to be a spot machine is the best of the others.
    """
    if terms.limits.steady >= max(1, terms.limits.minimum):
        offers = _firm(offers, profiles, terms) or offers
    choice = _chosen(offers, profiles, terms)
    winner, next_best = choice.winner, choice.runner_up
    if winner is None:
        return Advice(winner=None, runner_up=None, reason=choice.reason)
    rows = _eligible(offers, profiles, terms)
    mine = next((row for row in rows if row.offer.id in terms.marginal_micros), None)
    if mine is not None and mine is not winner:
        reason = f"{mine.offer.gpu}: a machine of one's own, paid for anyway"
        other = _fleet(winner, [row for row in rows if row is not mine], terms, choice.reason)
        return Advice(winner=_fleet(mine, rows, terms, reason), runner_up=other, reason=reason)
    main = (winner.offer.gpu, winner.offer.purchase)
    others = [row for row in rows if (row.offer.gpu, row.offer.purchase) != main]
    return Advice(
        winner=_fleet(winner, rows, terms, choice.reason),
        runner_up=None if next_best is None else _fleet(next_best, others, terms, next_best.reason),
        reason=choice.reason,
    )


def untried(offers: Sequence[Offer], demand: Sequence[Demand], terms: Terms) -> Advice | None:
    """Where nothing was measured: one's own machines, or one of a GPU that may be tried; None where neither is."""
    choice = _chosen(offers, demand[0].profiles if demand else (), terms)
    row = choice.winner
    if row is None or row.profile is not None:
        return None
    return Advice(winner=_fleet(row, (), terms, choice.reason), runner_up=None, reason=choice.reason)


def _eligible(offers: Sequence[Offer], profiles: Sequence[Profile], terms: Terms) -> list[Ranked]:
    ranked = rank(offers, profiles, terms.model, terms.p95_ms, currency=terms.currency, rates=terms.rates)
    return [row for row in ranked if row.eligible]


def _firm(offers: Sequence[Offer], profiles: Sequence[Profile], terms: Terms) -> list[Offer]:
    """Those that nobody takes back."""
    return [row.offer for row in _eligible(offers, profiles, terms) if row.offer.purchase is not Purchase.SPOT]


def _chosen(offers: Sequence[Offer], profiles: Sequence[Profile], terms: Terms) -> Choice:
    return choose(
        [offer for offer in offers if offer.capacity != 0],
        profiles,
        terms.model,
        terms.p95_ms,
        try_unmeasured=terms.try_unmeasured,
        currency=terms.currency,
        rates=terms.rates,
    )


def _fleet(first: Ranked, rows: Sequence[Ranked], terms: Terms, reason: str) -> Mix:
    """The minimum, one at least, of this offer and of the others in their order; of a rented machine that nobody
    measured just one."""
    others = [row.offer for row in rows if row.offer.id != first.offer.id]
    firm = [offer for offer in (first.offer, *others) if offer.purchase is not Purchase.SPOT]
    count = 1 if first.profile is None and first.offer.purchase is not Purchase.OWNED else max(1, terms.limits.minimum)
    held = min(terms.limits.steady, count) if first.offer.purchase is Purchase.SPOT else 0
    reason += f"; {held} of them never spot, and there is nothing else" if held and not firm else ""
    taken = [*_filled([first.offer, *others], count - held), *_filled(firm, held)]
    prices = [(price_in(offer, terms.currency, terms.rates), more) for offer, more in taken]
    known = [price * more for price, more in prices if price is not None]
    bill = round(sum(known)) if len(known) == len(prices) else None
    return Mix(
        parts=tuple(Part(offer=offer, count=more, images_per_second={}) for offer, more in taken),
        hourly_micros=bill,
        cost_micros=bill or 0,
        reason=reason,
    )


def _filled(offers: Sequence[Offer], count: int) -> Iterator[tuple[Offer, int]]:
    """So many machines of the first offers that have them."""
    for offer in offers:
        more = count if offer.capacity is None else min(count, offer.capacity)
        if more > 0:
            yield offer, more
        count -= max(0, more)
