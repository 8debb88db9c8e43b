"""A month's charges as FOCUS 1.4 Cost and Usage: a row for each charge, as CSV or Parquet.

Column names and rules: the FinOps Open Cost and Usage Specification, version 1.4. `BilledCost` is what the ledger
booked, to the micro-unit, so that it adds up to the month report's total; the list and contracted costs are unit price
times quantity, as the specification demands, and so may differ from it by less than a micro-unit.
"""

import csv
import io
import json
import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from orchestrator.billing import MICROSECONDS_PER_HOUR
from orchestrator.errors import Refused
from orchestrator.ledger import lives, reporting
from orchestrator.ledger.lives import Life
from orchestrator.ledger.store import Ledger
from orchestrator.ledger.tallies import Rates
from orchestrator.reports.baselines import on_demand_lines
from orchestrator.reports.figures import exact
from orchestrator.reports.formats import put
from orchestrator.reports.frame import Frame, frame, market_until, so_far
from orchestrator.reports.interruptions import within
from orchestrator.reports.prices import ListPrices, list_price_line
from orchestrator.reports.reckoning import Entry, grouped, reckon
from policies.snapshot import Purchase
from policies.windows import Span

VERSION = "1.4"
#: (service, category, subcategory) of what a charge is for; each service has exactly one category
SERVICES = {
    "compute": ("machines", "Compute", "Virtual Machines"),
    "disk": ("disks", "Storage", "Block Storage"),
    "address": ("addresses", "Networking", "Network Infrastructure"),
}
PRICING = {Purchase.ON_DEMAND: "Standard", Purchase.SPOT: "Dynamic", Purchase.OWNED: "Other"}
PROVIDERS = {"aws": "Amazon Web Services", "local": "Own machine", "ssh": "Own hosts", "simulated": "Simulated market"}
#: of quantities and unit prices: enough that their product is right to less than a micro-unit
PLACES = 15
SECOND = timedelta(seconds=1)

COLUMNS = (
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency"),
    *("BillingPeriodStart", "BillingPeriodEnd", "ChargeCategory", "ChargeClass", "ChargeDescription"),
    *("ChargeFrequency", "ChargePeriodStart", "ChargePeriodEnd", "ConsumedQuantity", "ConsumedUnit"),
    *("ContractedCost", "ContractedUnitPrice", "EffectiveCost", "HostProviderName", "InvoiceIssuerName"),
    *("ListCost", "ListUnitPrice", "PricingCategory", "PricingCurrency", "PricingQuantity", "PricingUnit"),
    *("AvailabilityZone", "ResourceId", "ResourceName", "ResourceType"),
    *("ServiceCategory", "ServiceName", "ServiceProviderName", "ServiceSubcategory"),
    *("SkuId", "SkuMeter", "SkuPriceId", "SkuPriceDetails", "Tags"),
    *("x_Images", "x_Interruptions", "x_DecisionId", "x_IntentId", "x_ChargeId", "x_Simulated"),
)
COUNTS = ("x_Images", "x_Interruptions", "x_DecisionId", "x_IntentId", "x_ChargeId")
AMOUNTS = (
    *("BilledCost", "ConsumedQuantity", "ContractedCost", "ContractedUnitPrice", "EffectiveCost"),
    *("ListCost", "ListUnitPrice", "PricingQuantity"),
)
MOMENTS = ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd")

Line = dict[str, str]  # a row; what is null is ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """The rows of a month, and how many charges are left out because nobody knows their price."""

    lines: tuple[Line, ...]
    unknown: int


def export(ledger: Ledger, month_text: str | None, now: datetime) -> Export:
    """The month as `month.of_ledger` reports it: same zone, same currency, same charges.

    A charge in another currency is billed in the report's where a spec has a rate, else in its own. FOCUS knows no
    unknown cost: such charges are counted and left out. Raises Refused for a month that is none.
    """
    return framed(ledger, frame(ledger, month_text, now), now)


def framed(ledger: Ledger, asked: Frame, now: datetime) -> Export:
    """The same for a frame of the caller's."""
    period = so_far(asked.whole, now)
    with ledger.read() as tx:
        booked = reporting.charges(tx, period.opens_at, period.closes_at)
        found = {life.instance_id: life for life in lives.there(tx, period.opens_at, period.closes_at)}
        found |= lives.of(tx, {one.instance_id for one in booked} - found.keys())
        read = reporting.minutes(tx, period.opens_at, period.closes_at)
        listed = on_demand_lines(reporting.on_spot(tx), market_until(tx, period.closes_at, ()), asked.rates)
    entries = reckon(booked, period, asked.rates)
    known = [one for one in entries if one.micros is not None or one.foreign_micros is not None]
    images, lost = _images(known, read), _lost(known, found, period)
    account = {
        "BillingAccountId": ledger.installation_id(),
        "BillingAccountName": "halve",
        "BillingPeriodStart": _moment(asked.whole.opens_at),
        "BillingPeriodEnd": _moment(asked.whole.closes_at),
        "x_Simulated": str(ledger.simulated()).lower(),
    }
    lines = []
    for one in known:
        number = one.booked.charge_id
        counts = {"x_Images": images.get(number, 0), "x_Interruptions": int(number in lost)}
        life = found[one.booked.instance_id]
        line = _line(one, life, asked, listed) | account | {name: str(value) for name, value in counts.items()}
        lines.append(line)
    return Export(lines=tuple(lines), unknown=len(entries) - len(known))


def write(ledger: Ledger, month_text: str | None, now: datetime, path: Path | None) -> None:
    """Write the month as CSV, or as Parquet where the file's name ends in .parquet. Says on stderr what is left out."""
    found = export(ledger, month_text, now)
    if path is not None and path.suffix == ".parquet":
        parquet(found.lines, path)
    else:
        put(csv_text(found.lines), path)
    if not found.lines and not found.unknown:
        sys.stderr.write("no data: nothing was charged in that month\n")
    if found.unknown:
        sys.stderr.write(f"left out: {found.unknown} charges at a price that nobody knows; FOCUS has no unknown cost\n")


def csv_text(lines: Sequence[Line]) -> str:
    """The rows as CSV with a heading."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def parquet(lines: Sequence[Line], path: Path) -> None:
    """The rows as Parquet: moments as UTC timestamps, amounts as decimals. Raises Refused without pyarrow."""
    try:
        import pyarrow as pa
        from pyarrow import parquet as writer
    except ImportError:
        raise Refused("--output *.parquet needs pyarrow: pip install 'halve[focus]'") from None
    types = {name: pa.string() for name in COLUMNS}
    types |= dict.fromkeys(COUNTS, pa.int64()) | dict.fromkeys(AMOUNTS, pa.decimal128(38, PLACES))
    types |= dict.fromkeys(MOMENTS, pa.timestamp("s", tz="UTC"))
    read = dict.fromkeys(COUNTS, int) | dict.fromkeys(AMOUNTS, Decimal) | dict.fromkeys(MOMENTS, datetime.fromisoformat)
    columns = [
        pa.array([read.get(name, str)(line[name]) if line[name] else None for line in lines], types[name])
        for name in COLUMNS
    ]
    try:
        writer.write_table(pa.table(columns, schema=pa.schema(list(types.items()))), path)
    except OSError as error:
        raise Refused(f"--output {path}: {error.strerror}; name a file that can be written") from None


def _line(one: Entry, life: Life, asked: Frame, listed: ListPrices) -> Line:
    booked = one.booked
    service, category, subcategory = SERVICES[booked.kind]
    issuer = PROVIDERS.get(booked.provider, booked.provider)
    due = one.micros if one.micros is not None else one.foreign_micros
    ends_at = max(one.ends_at.replace(microsecond=0), one.starts_at.replace(microsecond=0) + SECOND)
    sku = "/".join((booked.provider, life.instance_type or booked.gpu, booked.kind))
    line = dict.fromkeys(COLUMNS, "")
    line |= {
        "BilledCost": exact(due),
        "EffectiveCost": exact(due),
        "BillingCurrency": asked.currency if one.micros is not None else booked.charge.currency,
        "PricingCurrency": booked.charge.currency,
        "ChargeCategory": "Usage",
        "ChargeFrequency": "Usage-Based",
        "ChargeDescription": f"{booked.gpu} {booked.purchase.value.replace('_', '-')}, {booked.deployment}: {service}",
        "ChargePeriodStart": _moment(one.starts_at),
        "ChargePeriodEnd": _moment(ends_at),
        "HostProviderName": issuer,
        "InvoiceIssuerName": issuer,
        "ServiceProviderName": issuer,
        "ServiceName": f"{issuer} {service}",
        "ServiceCategory": category,
        "ServiceSubcategory": subcategory,
        "AvailabilityZone": life.zone,
        "ResourceId": booked.instance_id,
        "ResourceName": booked.instance_id,
        "ResourceType": f"{booked.gpu} {service}",
        "SkuId": sku,
        "SkuMeter": f"{booked.kind} hours",
        "Tags": json.dumps({"deployment": booked.deployment}, ensure_ascii=False),
        "x_DecisionId": str(life.tick_id),
        "x_IntentId": str(life.intent_id),
        "x_ChargeId": str(booked.charge_id),
    }
    if booked.charge.amount_micros is not None:
        # on demand there is no free first hour, and nothing to correct
        instead = due if one.micros is None or list_price_line(booked, listed) is None else 0
        return line | {"ChargeClass": "Correction", "ContractedCost": exact(due), "ListCost": exact(instead)}
    return line | _priced(one, sku, asked.rates, listed)


def _priced(one: Entry, sku: str, rates: Rates, list_prices: ListPrices) -> Line:
    """The unit prices of a stretch of time, and what they come to."""
    charge = one.booked.charge
    rate = rates.get(charge.currency, 1) if one.micros is not None else 1
    hours = _decimal(Fraction(one.elapsed, MICROSECONDS_PER_HOUR))
    contracted = _decimal(Fraction((charge.price_per_hour_micros or 0) * rate) / 1_000_000)
    listed = contracted
    prices = list_price_line(one.booked, list_prices) if one.micros is not None else None
    if prices is not None:  # on average, should it have changed meanwhile
        due = prices.cost(one.starts_at, one.ends_at)
        listed = _decimal(due * MICROSECONDS_PER_HOUR / one.elapsed / 1_000_000)
    return {
        "PricingCategory": PRICING[one.booked.purchase],
        "PricingQuantity": _plain(hours),
        "PricingUnit": "Hours",
        "ConsumedQuantity": _plain(hours),
        "ConsumedUnit": "Hours",
        "ContractedUnitPrice": _plain(contracted),
        "ContractedCost": _plain((contracted * hours).quantize(Decimal(10) ** -PLACES)),
        "ListUnitPrice": _plain(listed),
        "ListCost": _plain((listed * hours).quantize(Decimal(10) ** -PLACES)),
        "SkuPriceId": f"{sku}/{one.booked.purchase.value}",
        "SkuPriceDetails": json.dumps({"x_Gpu": one.booked.gpu}, ensure_ascii=False),
    }


def _images(entries: Sequence[Entry], read: Mapping[str, Sequence[tuple[datetime, int]]]) -> dict[int, int]:
    """Images by charge: a minute's belong to the machine's charge that ran when it began, or else to its first one."""
    found: dict[int, int] = {}
    running = [one for one in entries if one.is_machine_time]
    for machine, mine in grouped(running, lambda one: one.booked.instance_id).items():
        mine.sort(key=lambda one: one.starts_at)
        starts = [one.starts_at for one in mine]
        for at, images in read.get(machine, ()):
            number = mine[max(0, bisect_right(starts, at) - 1)].booked.charge_id
            found[number] = found.get(number, 0) + images
    return found


def _lost(entries: Sequence[Entry], found: Mapping[str, Life], period: Span) -> set[int]:
    """The last charge in the period of each machine that was lost in it."""
    running = grouped((one for one in entries if one.is_machine_time), lambda one: one.booked.instance_id)
    gone = [mine for machine, mine in running.items() if within(found[machine].lost_at, period)]
    return {max(mine, key=lambda one: one.ends_at).booked.charge_id for mine in gone}


def _decimal(value: Fraction) -> Decimal:
    return Decimal(round(value * 10**PLACES)).scaleb(-PLACES)


def _plain(value: Decimal) -> str:
    """Without an exponent and without trailing zeros."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
