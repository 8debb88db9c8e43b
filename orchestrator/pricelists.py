"""Price lists as CSV, for platforms without an API and contracts of one's own; and providers asked for their prices."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation

from orchestrator import prices
from orchestrator.errors import Refused
from orchestrator.ledger import offers, quotes
from orchestrator.ledger.quotes import SINCE_EVER, Quote
from orchestrator.ledger.store import Ledger
from orchestrator.providers import Provider, ProviderError
from orchestrator.reports.figures import exact
from orchestrator.spec.units import currency_code
from policies.snapshot import Purchase

COLUMNS = ("provider", "gpu", "purchase", "zone", "instance_type", "price_per_hour", "currency", "source", "since")
REQUIRED = ("gpu", "price_per_hour", "currency", "source", "since")
#: what machines of these cost is what their spec says, and nothing else
OF_SPECS = ("local", "ssh", "simulated")
#: a list with more faults than this is some other file
MOST_FAULTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """What became of asking one provider. With an error, the last good prices stay in force."""

    provider: str
    offers: int
    moved: int
    error: str | None = None


def refresh(ledger: Ledger, providers: Mapping[str, Provider], now: datetime) -> tuple[Refreshed, ...]:
    """Ask each provider for its prices and record what is new. One that fails leaves what is known as it is."""
    return tuple(_asked(ledger, name, provider, now) for name, provider in providers.items())


def _asked(ledger: Ledger, name: str, provider: Provider, now: datetime) -> Refreshed:
    with ledger.read() as tx:
        before = {one.offer_id: one for one in quotes.in_force(tx, now)}
        since = offers.newest_price_at(tx, name) or now
    try:
        listed, told = provider.offers(), provider.prices(since)
    except ProviderError as error:
        return Refreshed(provider=name, offers=0, moved=0, error=str(error))
    with ledger.write() as tx:
        if told is None:
            offers.record(tx, listed, name, now)
        else:
            offers.describe(tx, listed, now)
            offers.record_prices(tx, told, name, now)
        after = {one.offer_id: one for one in quotes.in_force(tx, now)}
    moved = sum(one != before.get(offer) for offer, one in after.items())
    return Refreshed(provider=name, offers=len(listed), moved=moved)


def to_csv(listed: Iterable[Quote]) -> str:
    """The quotes as a list that `read` takes; a price that became unknown is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in listed:
        kind = one.provider, one.gpu, one.purchase.value, one.zone, one.instance_type
        since = one.effective_at.isoformat().replace("+00:00", "Z")
        writer.writerow((*kind, exact(one.price_per_hour_micros), one.currency, one.source, since))
    return text.getvalue()


def read(text: str, name: str, now: datetime) -> tuple[tuple[Quote, ...], int]:
    """The quotes of a CSV list, and how many lines are left out because a spec says what those machines cost.

    `name` is for messages. Raises Refused with every fault and its line.
    """
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")), skipinitialspace=True)
    try:
        heading = tuple(rows.fieldnames or ())
        lines = [(rows.line_num, row) for row in rows]
    except csv.Error as error:
        raise Refused(f"{name}: line {rows.line_num + 1}: {error}; is it CSV?") from None
    missing = [column for column in REQUIRED if column not in heading]
    unknown = [column for column in heading if column not in COLUMNS]
    if missing or unknown:
        words = [f"no column {', '.join(missing)}"] * bool(missing) + [f"unknown: {', '.join(unknown)}"] * bool(unknown)
        raise Refused(f"{name}: line 1: {'; '.join(words)}; the columns are {', '.join(COLUMNS)}")
    if not lines:
        raise Refused(f"{name}: no price in it: below the heading stands a line for each")
    found: list[Quote] = []
    faults: list[str] = []
    left_out = 0
    for number, row in lines:
        cells = {column: (row.get(column) or "").strip() for column in COLUMNS}
        if cells["provider"] in OF_SPECS:
            left_out += 1
            continue
        try:
            if more := row.get(None):  # where csv puts what has no heading
                raise ValueError(f"{len(heading) + len(more)} cells, and {len(heading)} columns in the heading")
            found.append(_quote(cells, now))
        except ValueError as fault:
            faults.append(f"line {number}: {fault}")
    faults += _contradictions(found)
    if faults:
        more = [f"and {len(faults) - MOST_FAULTS} more"] * (len(faults) > MOST_FAULTS)
        raise Refused("; ".join([f"{name}: {faults[0]}", *faults[1:MOST_FAULTS], *more]))
    return tuple(found), left_out


def import_list(ledger: Ledger, listed: Sequence[Quote], now: datetime) -> int:
    """Record a list in one transaction. Returns how many prices were news."""
    with ledger.write() as tx:
        return quotes.take_in(tx, listed, now)


def _quote(cells: Mapping[str, str], now: datetime) -> Quote:
    if empty := [column for column in REQUIRED if not cells[column] and column not in ("price_per_hour", "currency")]:
        raise ValueError(f"{', '.join(empty)} is empty")
    if strange := [column for column, cell in cells.items() if not cell.isprintable()]:
        raise ValueError(f"{', '.join(strange)}: a character that cannot be printed")
    purchase = cells["purchase"] or Purchase.ON_DEMAND.value
    if purchase not in (Purchase.ON_DEMAND.value, Purchase.SPOT.value):
        raise ValueError(f"purchase {purchase}: want on_demand or spot")
    price = _price(cells["price_per_hour"])
    since = _since(cells["since"])
    if since > now:
        raise ValueError(f"since {cells['since']}: that is still to come; a list says what was and is")
    provider = cells["provider"] or offers.MARKET
    parts = [provider, cells["gpu"], cells["instance_type"] if provider != offers.MARKET else "", cells["zone"]]
    spot = [purchase] * (purchase == Purchase.SPOT.value)
    return Quote(
        offer_id="/".join([part for part in parts if part] + spot),
        provider=provider,
        zone=cells["zone"],
        instance_type=cells["instance_type"],
        gpu=cells["gpu"],
        purchase=Purchase(purchase),
        price_per_hour_micros=price,
        currency=_currency(cells["currency"]) if price is not None else "",
        source=cells["source"],
        effective_at=since,
        recorded_at=now,
    )


def _price(text: str) -> int | None:
    if not text:
        return None
    try:
        price = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"price_per_hour {text}: want a number such as 1.80, or nothing for unknown") from None
    if not price.is_finite() or not 0 < price < 1_000_000:
        raise ValueError(
            f"price_per_hour {text}: want more than 0 and less than 1,000,000; leave it empty where it is not known"
        )
    return prices.micros(text)


def _currency(text: str) -> str:
    try:
        return currency_code(text)
    except ValueError as fault:
        raise ValueError(f"currency {text}: {fault}") from None


def _since(text: str) -> datetime:
    at = _moment(text)
    if at < SINCE_EVER:
        raise ValueError(f"since {text}: want a moment from 1970 on")
    return at.astimezone(UTC)


def _moment(text: str) -> datetime:
    """A date is its first moment, UTC; a time of day says its zone."""
    try:
        day = date.fromisoformat(text)
        return datetime(day.year, day.month, day.day, tzinfo=UTC)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"since {text}: want 2026-10-01 or 2026-10-01T08:00:00Z") from None
    if at.tzinfo is None:
        raise ValueError(f"since {text}: want the zone too, as in {text}Z or {text}+08:00")
    return at


def _contradictions(listed: Sequence[Quote]) -> list[str]:
    """Two prices of one offer from the same moment on."""
    told: dict[tuple[str, datetime], Quote] = {}
    faults = []
    for one in listed:
        other = told.setdefault((one.offer_id, one.effective_at), one)
        if (other.price_per_hour_micros, other.currency) != (one.price_per_hour_micros, one.currency):
            faults.append(f"{one.offer_id} has two prices since {one.effective_at:%Y-%m-%d %H:%M} UTC")
    return faults
