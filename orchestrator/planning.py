"""Which machines a spec would take, and what they would cost at its windows: before anything is bought."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

from orchestrator.clock import VirtualClock
from orchestrator.deployment import local_offer, open_providers, simulated_profile
from orchestrator.ledger import deployments, fleet, offers
from orchestrator.ledger.store import Ledger
from orchestrator.spec import Spec
from policies import mix
from policies.forecast import DAYS_BACK, quantile
from policies.lifecycle import LIVE
from policies.mix import Demand, Mix, Part, Terms
from policies.program import Limits
from policies.scaling import START_UNMEASURED_SECONDS
from policies.snapshot import Offer, Purchase
from policies.windows import spans

#: the share of open minutes whose load a planned fleet carries
BUSY = 0.95
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

    @property
    def hourly_micros(self) -> int | None:
        return None if self.choice is None else self.choice.hourly_micros

    def to_json(self) -> dict[str, Any]:
        """The shape of DESIGN §7."""
        return {
            "choice": [] if self.choice is None else [_named(part) for part in self.choice.parts],
            "runner_up": None if self.runner_up is None else _other(self.runner_up),
            "hourly_micros": self.hourly_micros,
            "monthly_micros": self.monthly_micros,
            "currency": self.currency,
            "reason": self.reason,
        }


def plan(wanted: Spec, home: Path, ledger: Ledger, now: datetime) -> Costs:
    """The cheapest fleet for the spec's usual busy minute, by today's prices; its smallest one while no load is known.

    hourly = price x replicas; monthly = hourly x open hours of the month, pre-warming not counted: an upper bound for a
    fleet that shrinks in quiet hours. Raises Refused for a provider that is not part of this version.
    """
    found = [offer for one in open_providers(wanted, home, VirtualClock(now)).values() for offer in one.offers()]
    allowed = [offer for offer in found if wanted.spot is not None or offer.purchase is not Purchase.SPOT]
    if wanted.selection.gpus:
        allowed = [offer for offer in allowed if offer.gpu in wanted.selection.gpus]
    with ledger.read() as tx:
        profiles = [*offers.profiles(tx, wanted.model)]
        start_seconds = fleet.start_seconds(tx, wanted.name)
        today = Counter(one.offer_id for one in fleet.machines(tx, wanted.name) if one.status in LIVE)
        minutes = deployments.load_minutes(tx, wanted.name, now - timedelta(days=DAYS_BACK))
    if "simulated" in wanted.provider:
        profiles.append(simulated_profile(wanted, wanted.simulated.gpu))
    terms = _terms(wanted, allowed, start_seconds)
    answer = mix.unloaded(allowed, profiles, terms)
    if busy := busy_rate(wanted, minutes, now):
        loaded = mix.cheapest(
            allowed, [Demand(name="", images_per_second=busy, profiles=tuple(profiles))], terms, today
        )
        if loaded.winner is None:  # the fleet will be as large as the spec lets it
            largest = replace(terms, limits=replace(terms.limits, minimum=wanted.replicas.max))
            answer = replace(mix.unloaded(allowed, profiles, largest), reason=f"{answer.reason}; {loaded.reason}")
        else:
            answer = loaded
    open_hours = hours_open(wanted, now)
    hourly = None if answer.winner is None else answer.winner.hourly_micros
    return Costs(
        choice=answer.winner,
        runner_up=answer.runner_up,
        open_hours=open_hours,
        monthly_micros=None if hourly is None else round(hourly * open_hours),
        currency=wanted.currency,
        reason=answer.reason,
    )


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


def _terms(wanted: Spec, found: Sequence[Offer], start_seconds: float | None) -> Terms:
    return Terms(
        model=wanted.model,
        p95_ms=wanted.slo.p95.total_seconds() * 1000 if wanted.slo else None,
        limits=Limits(
            minimum=wanted.replicas.min,
            maximum=wanted.replicas.max,
            steady=wanted.spot.base_on_demand if wanted.spot else 0,
        ),
        try_unmeasured=wanted.selection.unmeasured == "try-one",
        currency=wanted.currency,
        rates={code: Fraction(rate.rate) for code, rate in wanted.rates.items()},
        marginal_micros=_electricity(wanted, found),
        start_seconds=START_UNMEASURED_SECONDS if start_seconds is None else start_seconds,
    )


def _electricity(wanted: Spec, found: Sequence[Offer]) -> dict[str, int]:
    """What one more hour of this machine costs where its electricity is known: its rent is paid anyway."""
    if wanted.local.power is None:
        return {}
    power = wanted.local.model_copy(update={"price_per_hour": None, "amortisation_per_hour": None})
    price = local_offer(wanted.model_copy(update={"local": power})).price_per_hour_micros
    return {} if price is None else {offer.id: price for offer in found if offer.provider == "local"}


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


def _other(runner_up: Mix) -> dict[str, Any]:
    """Named by the part that carries most, all parts beside it."""
    main = {} if runner_up.main is None else _named(runner_up.main)
    parts = [_named(part) for part in runner_up.parts]
    return {**main, "choice": parts, "hourly_micros": runner_up.hourly_micros, "reason": runner_up.reason}
