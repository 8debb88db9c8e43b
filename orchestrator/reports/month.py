"""A month's bill: what every deployment cost, what it read for it, and what is not known."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from math import floor
from zoneinfo import ZoneInfo

from orchestrator.billing import MICROSECONDS_PER_HOUR
from orchestrator.ledger import reporting
from orchestrator.ledger.reporting import Quoted, Served
from orchestrator.ledger.store import Ledger, Transaction
from orchestrator.ledger.tallies import Rates, Tally, tallies
from orchestrator.reports.baselines import Market, baseline_lines, on_demand_lines, savings
from orchestrator.reports.budgets import BudgetLine, budget_lines
from orchestrator.reports.comparison import Alike, Comparison, alike
from orchestrator.reports.coverage import gap_minutes
from orchestrator.reports.days import Day, beginnings, days, spent
from orchestrator.reports.forecast import Forecast, forecast, ranged
from orchestrator.reports.frame import Frame, frame, market_until, so_far, year_and_month
from orchestrator.reports.hosts import HostRow, host_rows
from orchestrator.reports.interruptions import Interruptions, interruptions
from orchestrator.reports.interruptions import within as inside
from orchestrator.reports.prices import ListPrices, list_cost
from orchestrator.reports.reckoning import grouped
from orchestrator.reports.savings import Savings
from orchestrator.reports.terms import Terms
from orchestrator.reports.words import Said
from policies.snapshot import Purchase
from policies.throughput import measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One deployment on one kind of machine. `cost_micros` is what is known of it; None: nothing is."""

    deployment: str
    gpu: str
    purchase: Purchase
    hours: Fraction
    unknown_hours: Fraction  # of these, at a price that nobody knows
    boot_hours: Fraction  # of these, before it first answered
    busy_hours: Fraction | None  # that its images take at its measured speed; None: nobody measured it
    cost_micros: int | None
    list_micros: int | None  # the same at on-demand prices, where they are known
    unconverted: tuple[tuple[str, int], ...]  # (currency, micros) that no rate turns into the report's currency
    images: int

    @property
    def busy_share(self) -> Fraction | None:
        """Of its hours, from 0 to 1; None when its speed is not known."""
        return None if self.busy_hours is None or not self.hours else min(Fraction(1), self.busy_hours / self.hours)

    @property
    def discount_micros(self) -> int | None:
        """The list price less what is due; None where either is unknown."""
        return None if self.list_micros is None or self.cost_micros is None else self.list_micros - self.cost_micros

    @property
    def rate_micros(self) -> int | None:
        """What one of its hours really came to, disks, corrections and all; None when not all of it is known."""
        if not self.hours or self.cost_micros is None or self.unknown_hours or self.unconverted:
            return None
        return round(self.cost_micros / self.hours)

    @property
    def cost_per_1000_micros(self) -> int | None:
        """To the nearest micro-unit; None when there were no images, or when not all of the cost is known."""
        if not self.images or self.cost_micros is None or self.unknown_hours or self.unconverted:
            return None
        return round(Fraction(self.cost_micros * 1000, self.images))


@dataclass(frozen=True, slots=True, kw_only=True)
class MonthReport:
    """The month as far as it has gone. total = sum of rows = sum of days = sum of kinds, to the micro-unit."""

    month: str
    zone: str
    currency: str
    until: datetime  # the month's end, or the moment of the report
    over: bool  # the month is
    simulated: bool
    priced: tuple[Quoted, ...]  # where the prices are from
    total_micros: int | None  # None: machines ran and not one price is known
    unknown_hours: Fraction
    unconverted: tuple[tuple[str, int], ...]
    rows: tuple[Row, ...]
    hosts: tuple[HostRow, ...]  # the rows of one's own machines, machine by machine
    days: tuple[Day, ...]
    kinds: tuple[tuple[str, int], ...]  # compute, disk, address
    savings: Savings | None
    against: tuple[Said, ...]  # the baselines in words
    interruptions: tuple[Interruptions, ...]
    gaps_minutes: int
    forecast: Forecast | None
    budgets: tuple[BudgetLine, ...]
    last_month: Comparison | None
    last_year: Comparison | None
    notes: tuple[Said, ...]

    @property
    def forecast_micros(self) -> int | None:
        """What the month will have cost at its end."""
        return None if self.forecast is None else self.forecast.micros


def of_ledger(ledger: Ledger, month_text: str | None, now: datetime, zone: ZoneInfo | None = None) -> MonthReport:
    """Report a month ("YYYY-MM", None: the current one) as the deployments in the ledger have it: their zone, currency,
    rates and baselines. Where they differ, the first by name that has a word in it decides, and the report says so.

    Raises Refused for a month that is none.
    """
    asked = frame(ledger, month_text, now, zone)
    return month(ledger, asked.month, now=now, zone=asked.zone, currency=asked.currency, terms=asked.terms)


def month(
    ledger: Ledger, month_text: str, *, now: datetime, zone: ZoneInfo, currency: str, terms: Sequence[Terms] = ()
) -> MonthReport:
    """Report the local month of `zone`, in `currency`, with open charges counted up to `now`.

    Amounts in other currencies are converted by the rates in `terms`, or else named apart and never added. Raises
    Refused for a month that is none.
    """
    asked = Frame(month=month_text, zone=zone, currency=currency, terms=terms)
    whole, rates = asked.whole, asked.rates
    period = so_far(whole, now)
    begun = beginnings(zone, period)
    alikes = [alike(zone, *year_and_month(month_text), period.closes_at, ago) for ago in (1, 12)]
    with ledger.read() as tx:
        market = market_until(tx, period.closes_at, terms)
        listed = on_demand_lines(reporting.on_spot(tx), market, rates)
        baselines = baseline_lines(terms, market, rates)
        moves = [at for line in (*listed.values(), *baselines.values()) for at in line.edges if inside(at, period)]
        cuts = [*(at for _, at in begun), *(one.here.closes_at for one in alikes if one is not None), *moves]
        charged = tallies(tx, [period.opens_at, *(at for at in cuts if inside(at, period)), period.closes_at], rates)
        served = reporting.served(tx, period.opens_at, period.closes_at)
        boots = reporting.boots(tx, period.opens_at, period.closes_at)
        gaps = gap_minutes(
            reporting.ready(tx, period.opens_at, period.closes_at),
            reporting.evidence(tx, period.opens_at, period.closes_at),
            period,
        )
        lost = interruptions(tx, period, rates)
        hosts = host_rows(tx, period, rates)
        priced = reporting.quoted(tx, period.opens_at, period.closes_at)
        beside = [_beside(tx, one, charged, rates) if charged and one is not None else None for one in alikes]
    by_deployment = grouped(charged, lambda one: one.deployment)
    own = {name: sum(one.micros or 0 for one in mine) for name, mine in by_deployment.items()}
    rows = _rows(charged, served, boots, _speeds(terms, served, market), listed)
    known = [row.cost_micros for row in rows if row.cost_micros is not None]
    saved, against, notes = savings(terms, by_deployment, served, market, baselines, listed, period, currency)
    ahead = forecast(own, terms, whole, now) if known else None
    spent_by_day = days(charged, begun) if rows else ()
    return MonthReport(
        month=month_text,
        zone=zone.key,
        currency=currency,
        until=period.closes_at,
        over=now >= whole.closes_at,
        simulated=ledger.simulated(),
        priced=priced,
        total_micros=sum(known) if known or not rows else None,
        unknown_hours=sum((row.unknown_hours for row in rows), Fraction(0)),
        unconverted=_added(pair for row in rows for pair in row.unconverted),
        rows=rows,
        hosts=hosts,
        days=spent_by_day,
        kinds=_added((one.kind, one.micros) for one in charged if one.micros is not None),
        savings=saved,
        against=against,
        interruptions=lost,
        gaps_minutes=gaps,
        forecast=None if ahead is None else ranged(ahead, spent_by_day, terms, whole, now, zone),
        budgets=budget_lines(terms, own, whole, now, rates),
        last_month=beside[0],
        last_year=beside[1],
        notes=(*_said(terms, zone, currency, rows, month_text), *notes),
    )


def _beside(tx: Transaction, same: Alike, charged: Sequence[Tally], rates: Rates) -> Comparison | None:
    """The same days of an earlier month; None when nothing known was spent in that month."""
    start, end = same.whole.opens_at, same.whole.closes_at
    earlier = tallies(tx, (start, same.before.closes_at, end), rates)
    whole = spent(earlier, start, end)
    if not whole:
        return None
    return Comparison(
        month=same.month,
        days=same.days,
        micros=spent(charged, same.here.opens_at, same.here.closes_at),
        before_micros=spent(earlier, start, same.before.closes_at),
        whole_micros=whole,
    )


Kind = tuple[str, str, Purchase]


def _rows(
    charged: Sequence[Tally],
    served: Sequence[Served],
    boots: Mapping[Kind, int],
    speeds: Mapping[tuple[str, str], Fraction],
    listed: ListPrices,
) -> tuple[Row, ...]:
    kinds = grouped(charged, lambda one: (one.deployment, one.gpu, one.purchase))
    images = {(one.deployment, one.gpu, one.purchase): one.images for one in served}
    return tuple(
        _row(key, kinds.get(key, []), images.get(key, 0), boots.get(key, 0), speeds.get(key[:2]), listed)
        for key in sorted(kinds.keys() | images.keys())
    )


def _row(
    key: Kind, charged: Sequence[Tally], images: int, boot: int, speed: Fraction | None, listed: ListPrices
) -> Row:
    unknown = [one for one in charged if one.micros is None and one.foreign_micros is None]
    known = [one for one in charged if one.micros is not None]
    deployment, gpu, purchase = key
    hours = _hours(charged)
    return Row(
        deployment=deployment,
        gpu=gpu,
        purchase=purchase,
        hours=hours,
        unknown_hours=_hours(unknown),
        boot_hours=min(Fraction(boot, MICROSECONDS_PER_HOUR), hours),
        busy_hours=None if speed is None else images / speed / 3600,
        cost_micros=sum(one.micros or 0 for one in known) if known else None,
        list_micros=floor(list_cost(known, listed)) if known else None,
        unconverted=_added((one.currency, one.foreign_micros) for one in charged if one.foreign_micros is not None),
        images=images,
    )


def _hours(charged: Iterable[Tally]) -> Fraction:
    return Fraction(sum(one.elapsed for one in charged if one.is_machine_time), MICROSECONDS_PER_HOUR)


def _speeds(terms: Sequence[Terms], served: Sequence[Served], market: Market) -> dict[tuple[str, str], Fraction]:
    """Measured images a second by (deployment, GPU), where somebody measured it."""
    models = {one.name: one.model for one in terms}
    found = {}
    for deployment, gpu in {(one.deployment, one.gpu) for one in served}:
        model = models.get(deployment, "")
        profile = measured(market.profiles.get(model, ()), model, gpu)
        if profile is not None and profile.images_per_second:
            found[deployment, gpu] = Fraction(profile.images_per_second)
    return found


def _added(pairs: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    sums: dict[str, int] = {}
    for currency, amount in pairs:
        sums[currency] = sums.get(currency, 0) + amount
    return tuple(sorted(sums.items()))


def _said(terms: Sequence[Terms], zone: ZoneInfo, currency: str, rows: Sequence[Row], month_text: str) -> list[Said]:
    """What a reader must be told: no data, specs that disagree, rates that were used."""
    if not rows:
        return [Said("no data: nothing ran in {month}", month=month_text)]
    notes = [one.trouble for one in terms if one.trouble]
    zones = sorted({one.zone.key for one in terms if one.zone} - {zone.key})
    if zones:
        notes.append(
            Said("the month is that of {zone}; other deployments keep {others}", zone=zone.key, others=", ".join(zones))
        )
    others = sorted({one.currency for one in terms if one.currency} - {currency})
    if others:
        notes.append(
            Said("reported in {currency}; other specs speak {others}", currency=currency, others=", ".join(others))
        )
    converted = [said for one in terms if one.currency == currency for said in one.rates_said]
    return notes + list(dict.fromkeys(converted))
