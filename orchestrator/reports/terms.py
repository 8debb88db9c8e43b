"""What a report needs to know of a deployment besides the ledger's rows: opening hours, currency, rates, baseline."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

from orchestrator import spec
from orchestrator.deployment import budget_of
from orchestrator.errors import Refused
from orchestrator.ledger.deployments import Deployment
from orchestrator.reports.savings import Baseline
from orchestrator.reports.words import Said
from policies.budget import Budget
from policies.windows import Span, spans


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """One deployment's own words, as far as a month report asks for them."""

    name: str
    model: str = ""
    currency: str = ""
    zone: ZoneInfo | None = None  # None: it has no schedule, and so no opinion
    rates: Mapping[str, Fraction] = field(default_factory=dict)  # what one unit of another currency is worth
    rates_said: tuple[Said, ...] = ()  # the same for people: with date and source
    opening: tuple[Span, ...] = ()  # at least over the report's month
    baseline: Baseline | None = None
    budget: Budget | None = None  # in its currency
    since: datetime | None = None  # put up then
    until: datetime | None = None  # taken down then; None: it is still wanted
    trouble: Said | None = None  # why its spec could not be read


def terms_of(row: Deployment, year: int, month: int) -> Terms:
    """Read a deployment's stored spec. One that this halve cannot read any more gives its trouble in words."""
    until = row.updated_at if row.wanted == "down" else None
    try:
        said = spec.parse(row.spec, row.source)
    except Refused as refusal:
        why = str(refusal).splitlines()[0]
        trouble = Said("{name}: its spec cannot be read ({why})", name=row.name, why=why)
        return Terms(name=row.name, since=row.created_at, until=until, trouble=trouble)
    # a day more on either side: the report's month may be another zone's
    first = date(year, month, 1) - timedelta(days=1)
    last = first + timedelta(days=33)
    return Terms(
        name=row.name,
        model=said.model,
        currency=said.currency,
        zone=said.schedule.timezone if said.schedule else None,
        rates={code: Fraction(rate.rate) for code, rate in said.rates.items()},
        rates_said=tuple(rates_said(said).values()),
        opening=spans(said.schedule_over(first, last), first, last),
        baseline=_baseline(said),
        budget=budget_of(said),
        since=row.created_at,
        until=until,
    )


def rates_said(said: spec.Spec) -> dict[str, Said]:
    """What one unit of another currency is worth by a spec, for people: with date and source."""
    return {
        code: Said(
            "converted at 1 {code} = {rate} {currency} ({as_of}, {source})",
            code=code,
            rate=rate.rate,
            currency=said.currency,
            as_of=rate.as_of,
            source=rate.source,
        )
        for code, rate in said.rates.items()
    }


def _baseline(said: spec.Spec) -> Baseline | None:
    if said.baseline is None:
        return None
    price = said.baseline.price_per_hour
    return Baseline(
        gpu=said.baseline.gpu,
        purchase=said.baseline.purchase,
        replicas=said.baseline.replicas,
        always_on=said.baseline.always_on,
        price_per_hour_micros=None if price is None else price.micros,
        currency="" if price is None else price.currency,
    )
