"""Which machines a spec would take, and what they would cost at its windows: before anything is bought."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

from orchestrator.clock import VirtualClock
from orchestrator.deployment import budget_of, electricity, open_providers, simulated_profile, wishes
from orchestrator.errors import Refused
from orchestrator.ledger import deployments, fleet, offers
from orchestrator.ledger.offers import Price
from orchestrator.ledger.store import Ledger
from orchestrator.providers import Provider, ProviderError
from orchestrator.reports.terms import rates_said
from orchestrator.spec import Spec
from policies import choice
from policies.advice import Mix, Part
from policies.forecast import DAYS_BACK, quantile
from policies.lifecycle import LIVE
from policies.snapshot import Offer
from policies.windows import Schedule, bounds, spans

#: the share of open minutes whose load a planned fleet carries
BUSY = 0.95
#: how far back prices say what is usual, and of how much of it they have to be known
LATELY, FEWEST_DAYS = timedelta(days=30), timedelta(days=7)
#: fewer known minutes than this are no evidence
FEWEST_MINUTES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """A choice of machines. Money is None where a price is not known."""

    choice: Mix | None
    runner_up: Mix | None
    open_hours: Fraction  # of the month
    monthly_micros: int | None
    currency: str
    reason: str
    running_micros: int | None  # what one hour costs of what runs now; None: nothing runs, or a price is unknown
    usual: "Usual | None"  # what the choice has cost lately; None: too little is known
    budget_micros: int | None = None  # of a month, from the spec
    converted: tuple[str, ...] = ()  # at which rates, of which day and from where

    @property
    def saved_micros(self) -> int | None:
        """An hour, against what runs now."""
        known = self.running_micros is not None and self.hourly_micros is not None
        return (self.running_micros or 0) - (self.hourly_micros or 0) if known else None

    @property
    def hourly_micros(self) -> int | None:
        return None if self.choice is None else self.choice.hourly_micros

    def monthly(self, fleet: Mix) -> int | None:
        """What a fleet costs in the open hours of the month; None where a price is not known."""
        return None if fleet.hourly_micros is None else round(fleet.hourly_micros * self.open_hours)

    def to_json(self) -> dict[str, Any]:
        """The shape of DESIGN §7."""
        return {
            "choice": [] if self.choice is None else [_named(part) for part in self.choice.parts],
            "runner_up": None if self.runner_up is None else _other(self.runner_up, self.monthly(self.runner_up)),
            "hourly_micros": self.hourly_micros,
            "monthly_micros": self.monthly_micros,
            "currency": self.currency,
            "reason": self.reason,
            "running_micros": self.running_micros,
            "hourly_p10_micros": None if self.usual is None else self.usual.low_micros,
            "hourly_p90_micros": None if self.usual is None else self.usual.high_micros,
            "monthly_p10_micros": None if self.usual is None else round(self.usual.low_micros * self.open_hours),
            "monthly_p90_micros": None if self.usual is None else round(self.usual.high_micros * self.open_hours),
            "budget_micros": self.budget_micros,
            "converted": list(self.converted),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """What a fleet has cost an hour: 10 of 100 hours cost no more than `low_micros`, 10 no less than `high_micros`."""

    low_micros: int
    high_micros: int
    days: int  # of prices that are known


def plan(wanted: Spec, home: Path, ledger: Ledger, now: datetime) -> Costs:
    """The cheapest fleet for the spec's usual busy minute, by today's prices; its smallest one while no load is known.

    hourly = price x replicas; monthly = hourly x open hours of the month, pre-warming not counted: an upper bound for a
    fleet that shrinks in quiet hours. Raises Refused for a provider that is not part of this version.
    """
    found = [offer for one in open_providers(wanted, home, VirtualClock(now)).values() for offer in _on_offer(one)]
    with ledger.read() as tx:
        profiles = [*offers.profiles(tx, wanted.model)]
        start_seconds = fleet.start_seconds(tx, wanted.name)
        today = Counter(one.offer_id for one in fleet.machines(tx, wanted.name) if one.status in LIVE)
        minutes = deployments.load_minutes(tx, wanted.name, now - timedelta(days=DAYS_BACK))
        prices = {one.id: one for one in offers.known(tx)}
    if "simulated" in wanted.provider:
        profiles.append(simulated_profile(wanted, wanted.simulated.gpu))
    policy = wishes(wanted, now, start_seconds, None, electricity(wanted, home))
    least, most = replicas(policy.schedule, now)
    answer = choice.fleet(found, profiles, policy, busy_rate(wanted, minutes, now) or 0.0, least, most, today)
    open_hours = hours_open(wanted, now)
    rates = {**{code: Fraction(rate.rate) for code, rate in wanted.rates.items()}, wanted.currency: Fraction(1)}
    parts = () if answer.winner is None else answer.winner.parts
    with ledger.read() as tx:
        told = offers.history(tx, [part.offer.id for part in parts])
    hourly = None if answer.winner is None else answer.winner.hourly_micros
    fleets = [one for one in (answer.winner, answer.runner_up) if one is not None]
    codes = {part.offer.currency for one in fleets for part in one.parts}
    limit = budget_of(wanted)
    return Costs(
        choice=answer.winner,
        runner_up=answer.runner_up,
        open_hours=open_hours,
        monthly_micros=None if hourly is None else round(hourly * open_hours),
        currency=wanted.currency,
        reason=answer.reason,
        running_micros=_running(today, prices, rates),
        usual=usual(parts, told, rates, now),
        budget_micros=None if limit is None else limit.monthly_micros,
        converted=tuple(words for code, words in rates_said(wanted).items() if code in codes),
    )


def _running(today: Mapping[str, int], known: Mapping[str, Offer], rates: Mapping[str, Fraction]) -> int | None:
    costs = [
        count * (offer.price_per_hour_micros or 0) * rates[offer.currency]
        for name, count in today.items()
        if (offer := known.get(name)) and offer.price_per_hour_micros is not None and offer.currency in rates
    ]
    return round(sum(costs, Fraction(0))) if costs and len(costs) == len(today) else None


def usual(parts: Sequence[Part], told: Sequence[Price], rates: Mapping[str, Fraction], now: datetime) -> Usual | None:
    """What these machines together have cost an hour over the last LATELY, by the time that each price held.

    None where not all of their prices are known for FEWEST_DAYS of it.
    """
    counts = {part.offer.id: part.count for part in parts}
    start = now - LATELY
    in_force: dict[str, Fraction] = {}
    held: list[tuple[Fraction, timedelta]] = []
    moves = [one for one in told if one.effective_at < now]
    ends = [one.effective_at for one in moves[1:]] + [now]
    for price, end in zip(moves, ends, strict=False):
        rate = rates.get(price.currency)
        if price.price_per_hour_micros is None or rate is None:
            in_force.pop(price.offer_id, None)
        else:
            in_force[price.offer_id] = price.price_per_hour_micros * rate
        lasted = end - max(start, price.effective_at)
        if lasted > timedelta(0) and in_force.keys() == counts.keys():
            held.append((sum((counts[name] * cost for name, cost in in_force.items()), Fraction(0)), lasted))
    known = sum((lasted for _, lasted in held), timedelta(0))
    if known < FEWEST_DAYS:
        return None
    low, high = (round(_quantile(sorted(held), known * share)) for share in (0.1, 0.9))
    return Usual(low_micros=low, high_micros=high, days=known // timedelta(days=1))


def _quantile(held: Sequence[tuple[Fraction, timedelta]], until: timedelta) -> Fraction:
    """The cost that holds after so much time, the cheapest time first."""
    passed = timedelta(0)
    for cost, lasted in held:
        passed += lasted
        if passed >= until:
            return cost
    return held[-1][0]


def _on_offer(provider: Provider) -> Sequence[Offer]:
    try:
        return provider.offers()
    except ProviderError as error:
        raise Refused(f"{provider.name} cannot be asked now: {error}") from None


def busy_rate(wanted: Spec, minutes: Mapping[datetime, int], now: datetime) -> float | None:
    """Images a second that 95 of 100 open minutes do not exceed; None with less than an hour of evidence."""
    first, last = (now - timedelta(days=DAYS_BACK + 1)).date(), (now + timedelta(days=1)).date()
    opened = spans(wanted.schedule_over(first, last), first, last)
    starts = [span.opens_at for span in opened]
    asked = [
        images
        for at, images in minutes.items()
        if (place := bisect_right(starts, at)) and at < opened[place - 1].closes_at
    ]
    return quantile(asked, BUSY) / 60 if len(asked) >= FEWEST_MINUTES else None


def replicas(schedule: Schedule, now: datetime) -> tuple[int, int]:
    """The fewest and the most of the window that is open, or opens next."""
    held = bounds(schedule, now)
    if not held.open and held.opens_at is not None:
        held = bounds(schedule, held.opens_at)
    return (held.min, held.max) if held.open else (schedule.min, schedule.max)


def hours_open(wanted: Spec, now: datetime) -> Fraction:
    """Hours that the windows of the current local month are open."""
    zone = wanted.schedule_for(now).zone
    first = now.astimezone(zone).date().replace(day=1)
    last = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    opened = spans(wanted.schedule_over(first, last), first, last)
    return sum((Fraction((s.closes_at - s.opens_at) // timedelta(seconds=1), 3600) for s in opened), Fraction(0))


def _named(part: Part) -> dict[str, Any]:
    offer = part.offer
    return {"gpu": offer.gpu, "provider": offer.provider, "purchase": str(offer.purchase), "count": part.count}


def _other(runner_up: Mix, monthly_micros: int | None) -> dict[str, Any]:
    """Named by the part that carries most, all parts beside it."""
    main = {} if runner_up.main is None else _named(runner_up.main)
    parts = [_named(part) for part in runner_up.parts]
    costs = {"hourly_micros": runner_up.hourly_micros, "monthly_micros": monthly_micros}
    return {**main, "choice": parts, **costs, "reason": runner_up.reason}
