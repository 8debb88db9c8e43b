"""Offers beside their prices, with source and dates: the SQL of what `halve prices` shows and takes in."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from orchestrator.ledger import offers
from orchestrator.ledger import tables as t
from orchestrator.providers import Priced
from policies.snapshot import Offer, Purchase


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """An offer at a price, from a moment on. None: unknown from then on."""

    offer_id: str
    provider: str
    zone: str
    instance_type: str
    gpu: str
    purchase: Purchase
    price_per_hour_micros: int | None
    currency: str
    source: str
    effective_at: datetime
    recorded_at: datetime

    @property
    def is_dated(self) -> bool:
        """Whether anybody said since when it holds."""
        return self.effective_at > SINCE_EVER


#: a published list without a date holds for as far back as a report may look; nobody knows how old it is
SINCE_EVER = t.EPOCH
#: what the daemon writes down as the source of what a provider itself says
OF_PROVIDER = "provider"


def source_name() -> sa.ColumnElement[str]:
    """Where a price is from, as people know it: a provider that told its own price by its name."""
    its_own = t.prices.c.source == sa.literal_column(f"'{OF_PROVIDER}'")  # no parameter: this may stand in GROUP BY
    return sa.case((its_own, t.offers.c.provider), else_=t.prices.c.source)


def history(tx: sa.Connection, provider: str | None = None) -> tuple[Quote, ...]:
    """Every price ever recorded (of a provider), by offer and oldest first."""
    o, p = t.offers.c, t.prices.c
    columns = o.provider, o.zone, o.instance_type, o.gpu, o.purchase
    query = sa.select(t.prices, source_name().label("named"), *columns).join(t.offers, o.id == p.offer_id)
    if provider is not None:
        query = query.where(o.provider == provider)
    rows = tx.execute(query.order_by(o.provider, o.id, p.effective_at, p.id))
    return tuple(
        Quote(
            offer_id=row.offer_id,
            provider=row.provider,
            zone=row.zone,
            instance_type=row.instance_type,
            gpu=row.gpu,
            purchase=Purchase(row.purchase),
            price_per_hour_micros=row.price_per_hour_micros,
            currency=row.currency,
            source=row.named,
            effective_at=row.effective_at,
            recorded_at=row.recorded_at,
        )
        for row in rows
    )


def in_force(tx: sa.Connection, at: datetime) -> tuple[Quote, ...]:
    """The price of each offer that is in force at `at`, by offer."""
    newest: dict[str, Quote] = {}
    for quote in history(tx):
        if quote.effective_at <= at:
            newest[quote.offer_id] = quote
    return tuple(newest.values())


def take_in(tx: sa.Connection, quotes: Iterable[Quote], now: datetime) -> int:
    """Record quotes, their offers too; a price that is known already is no news. Returns how many were news.

    Nothing is overwritten: another price for the same moment is a new row, and the newest row of a moment speaks.
    """
    listed = sorted(quotes, key=lambda one: one.effective_at)
    present = {offer.id for offer in offers.known(tx)} | {offer.id for offer in offers.known(tx, [offers.MARKET])}
    offers.describe(tx, [_offer(one) for one in listed if one.offer_id not in present], now)
    taken = 0
    for one in listed:
        price = Priced(
            offer_id=one.offer_id,
            price_per_hour_micros=one.price_per_hour_micros,
            currency=one.currency,
            effective_at=one.effective_at,
        )
        taken += len(offers.record_prices(tx, [price], one.source, now))
    return taken


def _offer(quote: Quote) -> Offer:
    return Offer(
        id=quote.offer_id,
        provider=quote.provider,
        zone=quote.zone,
        instance_type=quote.instance_type,
        gpu=quote.gpu,
        purchase=quote.purchase,
    )
