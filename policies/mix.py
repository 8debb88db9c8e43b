"""Which machines together: the cheapest fleet for a demand, and the next best, by the exact program of program.py."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from policies.advice import Advice, Demand, Mix, Part, Terms
from policies.program import Lot, Solution, Speeds, solve
from policies.selection import Ranked, price_in, rank
from policies.smallest import untried
from policies.snapshot import Offer, Profile, Purchase

#: a share of a class below this is the solver's rounding
NOTHING = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Offers alike but for their names, and how many of each run today."""

    offers: tuple[Offer, ...]
    today: tuple[int, ...]
    speeds: Speeds
    bill_micros: int | None  # an hour; None: unknown
    cost_micros: int | None  # that counts: the bill, or what one more hour adds to it

    def pool(self, terms: Terms) -> Lot:
        """The group as the program sees it. An unknown cost, where nothing else will do, counts as 0."""
        bounds = [offer.capacity for offer in self.offers if offer.capacity is not None]
        cost = self.cost_micros or 0
        return Lot(
            speeds=self.speeds,
            cost_micros=cost,
            start_micros=round(cost * terms.start_seconds / terms.keep_seconds),
            capacity=sum(bounds) if len(bounds) == len(self.offers) else None,
            today=sum(self.today),
            spot=self.offers[0].purchase is Purchase.SPOT,
        )


def cheapest(
    offers: Sequence[Offer], demand: Sequence[Demand], terms: Terms, today: Mapping[str, int] | None = None
) -> Advice:
    """The fleet that carries `demand` at the least cost, given how many machines of each offer run `today`.

    Only what was measured carries load. Machines of one's own whose cost is unknown come in when the others cannot
    carry it. When nothing was measured at all, `selection.choose` names what may be run or tried.
    """
    today = today or {}
    first = next((one.currency for one in offers if one.price_per_hour_micros is not None), "")
    terms = replace(terms, currency=terms.currency or first)
    demand = [one for one in demand if one.images_per_second > 0]
    verdicts = [{row.offer.id: row for row in _ranked(offers, one.profiles, terms)} for one in demand]
    groups = _groups(offers, verdicts, terms, today)
    known = [group for group in groups if group.cost_micros is not None]
    winner = _solved(known, demand, terms)
    if winner is None and len(known) < len(groups):
        known, winner = groups, _solved(groups, demand, terms)
    if winner is None:
        trial = None if groups else untried(offers, demand, terms)
        return trial or Advice(winner=None, runner_up=None, reason=_missing(groups, demand, verdicts, terms))
    winner = replace(winner, reason=_why(winner, demand, terms, today))
    runner_up = _runner_up(winner, known, demand, terms)
    alone = winner.main is not None and runner_up is None
    reason = f"{winner.reason}; no other GPU or terms can carry it" if alone else winner.reason
    return Advice(winner=winner, runner_up=runner_up, reason=reason)


def _ranked(offers: Sequence[Offer], profiles: Sequence[Profile], terms: Terms) -> Sequence[Ranked]:
    return rank(offers, profiles, terms.model, terms.p95_ms, currency=terms.currency, rates=terms.rates)


def _groups(
    offers: Sequence[Offer], verdicts: Sequence[Mapping[str, Ranked]], terms: Terms, today: Mapping[str, int]
) -> list[_Group]:
    """Offers that can carry some of the demand (all that have a price, when there is none), the cheapest first."""
    alike: dict[tuple[str, str, Purchase, Speeds, int | None, int | None], list[Offer]] = {}
    for offer in sorted(offers, key=lambda one: one.id):
        speeds = tuple(_speed(by_offer[offer.id]) for by_offer in verdicts)
        price = price_in(offer, terms.currency, terms.rates)
        if (speeds and not any(speeds)) or (price is None and offer.purchase is not Purchase.OWNED):
            continue
        bill = None if price is None else round(price)
        cost = terms.marginal_micros.get(offer.id, bill)
        alike.setdefault((offer.gpu, offer.provider, offer.purchase, speeds, bill, cost), []).append(offer)
    groups = [
        _Group(
            offers=tuple(members),
            today=tuple(_at_most(today.get(one.id, 0), one.capacity) for one in members),
            speeds=speeds,
            bill_micros=bill,
            cost_micros=cost,
        )
        for (_, _, _, speeds, bill, cost), members in alike.items()
    ]
    return sorted(groups, key=lambda one: (one.cost_micros is None, one.cost_micros or 0, one.offers[0].id))


def _speed(row: Ranked) -> float:
    return (row.profile.images_per_second or 0.0) if row.eligible and row.profile is not None else 0.0


def _at_most(count: int, bound: int | None) -> int:
    return count if bound is None else min(count, bound)


def _solved(groups: Sequence[_Group], demand: Sequence[Demand], terms: Terms) -> Mix | None:
    """The cheapest mix of these groups, its reason still to be said; None when they cannot carry the demand."""
    pools = [group.pool(terms) for group in groups]
    solution = solve(pools, [one.images_per_second for one in demand], terms.limits)
    if solution is None:
        return None
    chosen = [row for row in zip(groups, pools, solution.counts, strict=True) if row[2]]
    bills = [None if group.bill_micros is None else count * group.bill_micros for group, _, count in chosen]
    known = [bill for bill in bills if bill is not None]
    started = [max(0, count - pool.today) * pool.start_micros for _, pool, count in chosen]
    return Mix(
        parts=tuple(_parts([(group, count) for group, _, count in chosen], solution, demand)),
        hourly_micros=sum(known) if len(known) == len(bills) else None,
        cost_micros=sum(count * pool.cost_micros for _, pool, count in chosen) + sum(started),
        reason="",
    )


def _parts(chosen: Sequence[tuple[_Group, int]], solution: Solution, demand: Sequence[Demand]) -> Iterator[Part]:
    """What each offer of a group is to have: today's machines first, then as many as it can, by name."""
    machines = Counter[Speeds]()
    for group, count in chosen:
        machines[group.speeds] += count
    for group, count in chosen:
        left, kept = count, []
        for running in group.today:
            kept.append(min(running, left))
            left -= kept[-1]
        for offer, running in zip(group.offers, kept, strict=True):
            more = _at_most(left, None if offer.capacity is None else offer.capacity - running)
            left -= more
            if taken := running + more:
                share = taken / machines[group.speeds]
                carried = {
                    one.name: share * one.images_per_second * by_kind[group.speeds]
                    for one, by_kind in zip(demand, solution.shares, strict=True)
                    if by_kind.get(group.speeds, 0.0) > NOTHING
                }
                yield Part(offer=offer, count=taken, images_per_second=carried)


def _why(mix: Mix, demand: Sequence[Demand], terms: Terms, today: Mapping[str, int]) -> str:
    if not mix.parts:
        return "no load and a minimum of 0: nothing runs"
    carried = sum(one.images_per_second for one in demand)
    promise = "" if terms.p95_ms is None else f" within {terms.p95_ms / 1000:.3g} s"
    use = f"that carries {carried:.3g} images/s{promise} at {terms.limits.utilisation:.0%} use"
    bill = "cost unknown" if mix.hourly_micros is None else f"{mix.hourly_micros / 1e6:.4f} {terms.currency} an hour"
    kept = sum(min(part.count, today.get(part.offer.id, 0)) for part in mix.parts)
    running = f"; {kept} of them run already" if kept else ""
    return f"the cheapest fleet {use if demand else f'of {terms.limits.minimum}'}: {bill}{running}"


def _runner_up(winner: Mix, groups: Sequence[_Group], demand: Sequence[Demand], terms: Terms) -> Mix | None:
    """The cheapest fleet without the GPU and terms that carry most of the winner."""
    if winner.main is None:
        return None
    gpu, purchase = winner.main.offer.gpu, winner.main.offer.purchase
    others = [one for one in groups if (one.offers[0].gpu, one.offers[0].purchase) != (gpu, purchase)]
    mix = _solved(others, demand, terms)
    if mix is None:
        return None
    dearer = f"{mix.cost_micros / winner.cost_micros - 1:+.0%} an hour" if winner.cost_micros else "dearer"
    return replace(mix, reason=f"{dearer}, without {gpu} ({purchase})")


def _missing(
    groups: Sequence[_Group], demand: Sequence[Demand], verdicts: Sequence[Mapping[str, Ranked]], terms: Terms
) -> str:
    """What stands in the way, in words."""
    words = []
    for number, (one, by_offer) in enumerate(zip(demand, verdicts, strict=True)):
        if not any(group.speeds[number] > 0 for group in groups):
            against = dict.fromkeys(f"{row.offer.gpu}: {row.reason}" for row in by_offer.values() if not row.eligible)
            words.append(f"nothing reads {_of(one, 1.0)} ({'; '.join([*against][:3]) or 'no offers'})")
    pools, limits = [group.pool(terms) for group in groups], terms.limits
    solution = solve(pools, [one.images_per_second for one in demand], limits, short=True)
    if not words and solution is not None:
        left = zip(demand, solution.unmet, strict=True)
        words += [f"{_of(one, share)} cannot be carried" for one, share in left if share > NOTHING]
        if solution.too_few:
            words.append(f"{solution.too_few} of at least {limits.minimum} replicas cannot be had")
        named = [(pool.capacity, group.offers[0]) for pool, group in zip(pools, groups, strict=True)]
        words += [f"{offer.gpu} ({offer.purchase}): at most {most}" for most, offer in named if most is not None]
        words += [] if limits.maximum is None else [f"at most {limits.maximum} replicas"]
        words += [f"{limits.steady} of them never spot"] if limits.steady else []
    return f"nothing to choose ({'; '.join(words) or 'no offers'})"


def _of(one: Demand, share: float) -> str:
    return f"{one.images_per_second * share:.3g} images/s{f' of {one.name}' if one.name else ''}"
