"""Which month of which zone is asked for, in which currency, with the terms of which deployments."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

from orchestrator.errors import Refused
from orchestrator.ledger import deployments, offers, reporting
from orchestrator.ledger.store import Ledger, Transaction
from orchestrator.ledger.tallies import Rates
from orchestrator.reports.baselines import Market
from orchestrator.reports.comparison import local_month
from orchestrator.reports.terms import Terms, terms_of
from policies.snapshot import Purchase
from policies.windows import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Which month of which zone, in which currency, with the terms of the deployments."""

    month: str
    zone: ZoneInfo
    currency: str
    terms: Sequence[Terms]

    @property
    def whole(self) -> Span:
        """The calendar month."""
        return local_month(self.zone, *year_and_month(self.month))

    @property
    def rates(self) -> Rates:
        """What one unit of each currency is worth: by the first deployment that speaks the report's and says so."""
        rates: dict[str, Fraction | int] = {}
        for one in self.terms:
            if one.currency == self.currency:
                rates = {**one.rates, **rates}
        return {**rates, self.currency: 1}


def frame(ledger: Ledger, month_text: str | None, now: datetime, zone: ZoneInfo | None = None) -> Frame:
    """What `of_ledger` reports. Raises Refused for a month that is none."""
    with ledger.read() as tx:
        rows = deployments.known(tx)
    if zone is None:
        zones = [terms.zone for terms in (terms_of(row, now.year, now.month) for row in rows) if terms.zone]
        zone = zones[0] if zones else ZoneInfo("UTC")
    month_text = month_text or f"{now.astimezone(zone):%Y-%m}"
    year, number = year_and_month(month_text)
    terms = [terms_of(row, year, number) for row in rows]
    currency = next((one.currency for one in terms if one.currency), "")
    if not currency:
        with ledger.read() as tx:
            currency = next(iter(reporting.currencies(tx)), "")
    return Frame(month=month_text, zone=zone, currency=currency, terms=terms)


def market_until(tx: Transaction, end: datetime, terms: Sequence[Terms]) -> Market:
    """What was known by then of prices on demand and on the terms of the baselines, and of speeds."""
    models = {one.model for one in terms}
    asked = {Purchase.ON_DEMAND, *(one.baseline.purchase for one in terms if one.baseline is not None)}
    known = tuple(one for one in offers.known(tx) + offers.known(tx, [offers.MARKET]) if one.purchase in asked)
    history = offers.history(tx, [one.id for one in known])
    return Market(
        offers=known,
        history=tuple(price for price in history if price.effective_at < end),
        profiles={model: offers.profiles(tx, model) for model in models},
    )


def so_far(whole: Span, now: datetime) -> Span:
    """The month until now; empty before it begins."""
    return Span(opens_at=whole.opens_at, closes_at=max(whole.opens_at, min(whole.closes_at, now)))


def is_month(text: str) -> bool:
    """Whether `text` is a month as a report takes it: YYYY-MM, from 1970 to 2199."""
    return re.fullmatch(r"(19[7-9][0-9]|2[01][0-9]{2})-(0[1-9]|1[0-2])", text) is not None


def year_and_month(text: str) -> tuple[int, int]:
    """Of "YYYY-MM". Raises Refused for what is none."""
    if not is_month(text):
        raise Refused(f"month {text}: want YYYY-MM, such as 2026-10")
    return int(text[:4]), int(text[5:])
