"""A month's bill: what every deployment cost, what it read for it, and what is not known."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

from orchestrator.billing import MICROSECONDS_PER_HOUR, accrued, between, elapsed_microseconds
from orchestrator.errors import Refused
from orchestrator.ledger import deployments, offers, reporting
from orchestrator.ledger.reporting import Booked, Served
from orchestrator.ledger.store import Ledger
from orchestrator.reports.baselines import Market, savings
from orchestrator.reports.coverage import gap_minutes
from orchestrator.reports.forecast import forecast
from orchestrator.reports.prices import Rates
from orchestrator.reports.savings import Savings
from orchestrator.reports.terms import Terms, terms_of
from policies.snapshot import Purchase
from policies.windows import Schedule, Span, spans


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One deployment on one kind of machine. `cost_micros` is what is known of it; None: nothing is."""

    deployment: str
    gpu: str
    purchase: Purchase
    hours: Fraction
    unknown_hours: Fraction  # of these, at a price that nobody knows
    cost_micros: int | None
    unconverted: tuple[tuple[str, int], ...]  # (currency, micros) that no rate turns into the report's currency
    images: int

    @property
    def cost_per_1000_micros(self) -> int | None:
        """To the nearest micro-unit; None when there were no images, or when not all of the cost is known."""
        if not self.images or self.cost_micros is None or self.unknown_hours or self.unconverted:
            return None
        return round(Fraction(self.cost_micros * 1000, self.images))


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A local date and the known cost of it."""

    date: date
    cost_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthReport:
    """The month as far as it has gone. total = sum of rows = sum of days, to the micro-unit."""

    month: str
    zone: str
    currency: str
    until: datetime  # the month's end, or the moment of the report
    over: bool  # the month is
    simulated: bool
    total_micros: int | None  # None: machines ran and not one price is known
    unknown_hours: Fraction
    unconverted: tuple[tuple[str, int], ...]
    rows: tuple[Row, ...]
    days: tuple[Day, ...]
    savings: Savings | None
    against: str  # the baseline in words
    gaps_minutes: int
    forecast_micros: int | None
    notes: tuple[str, ...]


def of_ledger(ledger: Ledger, month_text: str | None, now: datetime, zone: ZoneInfo | None = None) -> MonthReport:
    """Report a month ("YYYY-MM", None: the current one) as the deployments in the ledger have it: their zone, currency,
    rates and baselines. Where they differ, the first by name that has a word in it decides, and the report says so.

    Raises Refused for a month that is none.
    """
    with ledger.read() as tx:
        rows = deployments.known(tx)
        used = reporting.currencies(tx)
    if zone is None:
        zones = [terms.zone for terms in (terms_of(row, now.year, now.month) for row in rows) if terms.zone]
        zone = zones[0] if zones else ZoneInfo("UTC")
    month_text = month_text or f"{now.astimezone(zone):%Y-%m}"
    year, number = _parsed(month_text)
    terms = [terms_of(row, year, number) for row in rows]
    currency = next((one.currency for one in terms if one.currency), next(iter(used), ""))
    return month(ledger, month_text, now=now, zone=zone, currency=currency, terms=terms)


def month(
    ledger: Ledger, month_text: str, *, now: datetime, zone: ZoneInfo, currency: str, terms: Sequence[Terms] = ()
) -> MonthReport:
    """Report the local month of `zone`, in `currency`, with open charges counted up to `now`.

    Amounts in other currencies are converted by the rates in `terms`, or else named apart and never added. Raises
    Refused for a month that is none.
    """
    year, number = _parsed(month_text)
    whole = _local_month(zone, year, number)
    period = Span(opens_at=whole.opens_at, closes_at=max(whole.opens_at, min(whole.closes_at, now)))
    rates = _rates(currency, terms)
    with ledger.read() as tx:
        touching = reporting.charges(tx, period.opens_at, period.closes_at)
        served = reporting.served(tx, period.opens_at, period.closes_at)
        ready = reporting.ready(tx, period.opens_at, period.closes_at)
        evidence = reporting.evidence(tx, period.opens_at, period.closes_at)
        market = Market(
            offers=offers.known(tx) + offers.known(tx, [offers.MARKET]),
            history=tuple(price for price in offers.history(tx) if price.effective_at < period.closes_at),
            profiles={one.model: offers.profiles(tx, one.model) for one in terms},
        )
    booked = [one for one in touching if one.charge.amount_micros is not None or _ran(one, period)]
    rows = _rows(booked, served, period, rates)
    known = [row.cost_micros for row in rows if row.cost_micros is not None]
    saved, against, notes = savings(terms, booked, served, market, period, currency, rates)
    own = {name: sum(r.cost_micros or 0 for r in rows if r.deployment == name) for name in {r.deployment for r in rows}}
    return MonthReport(
        month=month_text,
        zone=zone.key,
        currency=currency,
        until=period.closes_at,
        over=now >= whole.closes_at,
        simulated=ledger.simulated(),
        total_micros=sum(known) if known or not rows else None,
        unknown_hours=sum((row.unknown_hours for row in rows), Fraction(0)),
        unconverted=_added(pair for row in rows for pair in row.unconverted),
        rows=rows,
        days=_days(booked, zone, period, rates) if rows else (),
        savings=saved,
        against=against,
        gaps_minutes=gap_minutes(ready, evidence, period),
        forecast_micros=forecast(own, terms, whole, now) if known else None,
        notes=(*_said(terms, zone, currency, rows, month_text), *notes),
    )


def is_month(text: str) -> bool:
    """Whether `text` is a month as a report takes it: YYYY-MM, from 1970 on."""
    return re.fullmatch(r"(19[7-9][0-9]|[2-9][0-9]{3})-(0[1-9]|1[0-2])", text) is not None


def _parsed(text: str) -> tuple[int, int]:
    if not is_month(text):
        raise Refused(f"month {text}: want YYYY-MM, such as 2026-10")
    return int(text[:4]), int(text[5:])


def _local_month(zone: ZoneInfo, year: int, number: int) -> Span:
    first = date(year, number, 1)
    last = (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    (span,) = spans(Schedule(zone=zone), first, last)
    return span


def _rates(currency: str, terms: Sequence[Terms]) -> Rates:
    """What one unit of each currency is worth in the report's: by the first deployment that speaks it and says so."""
    rates: dict[str, Fraction | int] = {}
    for one in terms:
        if one.currency == currency:
            rates = {**one.rates, **rates}
    return {**rates, currency: 1}


def _rows(booked: Sequence[Booked], served: Sequence[Served], period: Span, rates: Rates) -> tuple[Row, ...]:
    kinds: dict[tuple[str, str, Purchase], list[Booked]] = {}
    for one in booked:
        kinds.setdefault((one.deployment, one.gpu, one.purchase), []).append(one)
    images = {(one.deployment, one.gpu, one.purchase): one.images for one in served}
    return tuple(
        _row(key, kinds.get(key, []), images.get(key, 0), period, rates) for key in sorted(kinds.keys() | images.keys())
    )


def _row(key: tuple[str, str, Purchase], booked: Sequence[Booked], images: int, period: Span, rates: Rates) -> Row:
    elapsed = unknown = 0
    known: list[int] = []
    foreign: list[tuple[str, int]] = []
    for one in booked:
        rate = rates.get(one.charge.currency)
        amount = between(one.charge, period.opens_at, period.closes_at, rate=1 if rate is None else rate)
        if one.kind == "compute":
            elapsed += _ran(one, period)
            unknown += _ran(one, period) if amount is None else 0
        if amount is not None and rate is None:
            foreign.append((one.charge.currency, amount))
        elif amount is not None:
            known.append(amount)
    deployment, gpu, purchase = key
    return Row(
        deployment=deployment,
        gpu=gpu,
        purchase=purchase,
        hours=Fraction(elapsed, MICROSECONDS_PER_HOUR),
        unknown_hours=Fraction(unknown, MICROSECONDS_PER_HOUR),
        cost_micros=sum(known) if known else None,
        unconverted=_added(foreign),
        images=images,
    )


def _ran(one: Booked, period: Span) -> int:
    """Microseconds of the period that a charge is for."""
    return elapsed_microseconds(one.charge, period.closes_at) - elapsed_microseconds(one.charge, period.opens_at)


def _added(pairs: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    sums: dict[str, int] = {}
    for currency, amount in pairs:
        sums[currency] = sums.get(currency, 0) + amount
    return tuple(sorted(sums.items()))


def _days(booked: Sequence[Booked], zone: ZoneInfo, period: Span, rates: Rates) -> tuple[Day, ...]:
    """Every local date of the period with what accrued on it: each charge is cut at the midnights it lives through."""
    last = (period.closes_at - timedelta(microseconds=1)).astimezone(zone).date()
    first = period.opens_at.astimezone(zone).date()
    dates = [first + timedelta(days=ahead) for ahead in range((last - first).days + 1)]
    cut = [(day, span) for day in dates for span in spans(Schedule(zone=zone), day, day)]  # a skipped date has no span
    starts = [span.opens_at for _, span in cut]
    costs = [0] * len(cut)
    for one in booked:
        rate = rates.get(one.charge.currency)
        before = None if rate is None else accrued(one.charge, period.opens_at, rate=rate)
        if rate is None or before is None:
            continue
        place = max(bisect_right(starts, one.charge.started_at) - 1, 0)
        while place < len(cut):
            end = min(cut[place][1].closes_at, period.closes_at)
            after = accrued(one.charge, end, rate=rate) or 0
            costs[place] += after - before
            before = after
            if one.charge.ended_at is not None and one.charge.ended_at <= end:
                break
            place += 1
    return tuple(Day(date=day, cost_micros=cost) for (day, _), cost in zip(cut, costs, strict=True))


def _said(terms: Sequence[Terms], zone: ZoneInfo, currency: str, rows: Sequence[Row], month_text: str) -> list[str]:
    """What a reader must be told: no data, specs that disagree, rates that were used."""
    if not rows:
        return [f"no data: nothing ran in {month_text}"]
    notes = [one.trouble for one in terms if one.trouble]
    zones = {one.zone.key for one in terms if one.zone} - {zone.key}
    notes += [f"the month is that of {zone.key}; other deployments keep {', '.join(sorted(zones))}"] if zones else []
    others = {one.currency for one in terms if one.currency} - {currency}
    notes += [f"reported in {currency}; other specs speak {', '.join(sorted(others))}"] if others else []
    converted = [said for one in terms if one.currency == currency for said in one.rates_said]
    return notes + [f"converted at {said}" for said in dict.fromkeys(converted)]
