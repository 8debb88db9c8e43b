"""Which machines a spec would take, and what they would cost at its windows: before anything is bought."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

from orchestrator.clock import VirtualClock
from orchestrator.deployment import open_providers, simulated_profile
from orchestrator.ledger import offers
from orchestrator.ledger.store import Ledger
from orchestrator.spec import Spec
from policies import selection
from policies.selection import Ranked
from policies.snapshot import Purchase
from policies.windows import spans


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """A choice of machines. Money is None where a price is not known."""

    choice: Ranked | None
    runner_up: Ranked | None
    count: int
    open_hours: Fraction  # of the month
    hourly_micros: int | None
    monthly_micros: int | None
    currency: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """The shape of DESIGN §7."""
        return {
            "choice": [] if self.choice is None else [{**_named(self.choice), "count": self.count}],
            "runner_up": None if self.runner_up is None else _named(self.runner_up),
            "hourly_micros": self.hourly_micros,
            "monthly_micros": self.monthly_micros,
            "currency": self.currency,
            "reason": self.reason,
        }


def plan(wanted: Spec, home: Path, ledger: Ledger, now: datetime) -> Costs:
    """The cheapest way to run the spec's smallest fleet through its windows of this month, by today's prices.

    hourly = price x replicas; monthly = hourly x open hours of the month, pre-warming not counted. Raises Refused for
    a provider that is not part of this version.
    """
    found = [offer for one in open_providers(wanted, home, VirtualClock(now)).values() for offer in one.offers()]
    allowed = [offer for offer in found if wanted.spot is not None or offer.purchase is not Purchase.SPOT]
    if wanted.selection.gpus:
        allowed = [offer for offer in allowed if offer.gpu in wanted.selection.gpus]
    with ledger.read() as tx:
        profiles = [*offers.profiles(tx, wanted.model)]
    if "simulated" in wanted.provider:
        profiles.append(simulated_profile(wanted, wanted.simulated.gpu))
    choice = selection.choose(
        allowed,
        profiles,
        wanted.model,
        wanted.slo.p95.total_seconds() * 1000 if wanted.slo else None,
        try_unmeasured=wanted.selection.unmeasured == "try-one",
        currency=wanted.currency,
        rates=_rates(wanted),
    )
    count = max(1, wanted.replicas.min)
    price = None if choice.winner is None else selection.price_in(choice.winner.offer, wanted.currency, _rates(wanted))
    open_hours = hours_open(wanted, now)
    return Costs(
        choice=choice.winner,
        runner_up=choice.runner_up,
        count=count,
        open_hours=open_hours,
        hourly_micros=None if price is None else round(price * count),
        monthly_micros=None if price is None else round(price * count * open_hours),
        currency=wanted.currency,
        reason=choice.reason,
    )


def hours_open(wanted: Spec, now: datetime) -> Fraction:
    """Hours that the windows of the current local month are open."""
    zone = wanted.schedule_for(now).zone
    first = now.astimezone(zone).date().replace(day=1)
    last = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    opened = spans(wanted.schedule_over(first, last), first, last)
    return sum((Fraction((s.closes_at - s.opens_at) // timedelta(seconds=1), 3600) for s in opened), Fraction(0))


def _rates(wanted: Spec) -> dict[str, Fraction]:
    return {code: Fraction(rate.rate) for code, rate in wanted.rates.items()}


def _named(ranked: Ranked) -> dict[str, Any]:
    offer = ranked.offer
    return {"gpu": offer.gpu, "provider": offer.provider, "purchase": str(offer.purchase)}
