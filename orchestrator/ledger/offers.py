"""What could be rented, what it costs since when, what a launch there taught us, and how fast it was measured to be."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from orchestrator.ledger import tables as t
from orchestrator.providers import Priced
from policies.snapshot import Offer, Profile, Purchase

#: the provider of published price lists: to compare with, nothing can be launched there
MARKET = "market"
#: what a provider says about an offer, besides its price
DESCRIPTION = ("provider", "zone", "instance_type", "gpu", "purchase", "capacity", "seen_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One row of the price history: this price, from then on. None: unknown from then on."""

    offer_id: str
    price_per_hour_micros: int | None
    currency: str
    source: str
    effective_at: datetime


def record(
    tx: sa.Connection, offers: Sequence[Offer], source: str, now: datetime, effective_at: datetime | None = None
) -> bool:
    """Remember these offers; a price that differs from the one in force becomes a new row, in force from `now`.

    Nothing is overwritten. A rented offer without a price keeps its last good one (a failed refresh is no news); an
    owned one without a price becomes unknown, for its price is whatever its owner says. Returns whether a price moved.
    """
    since = effective_at or now
    latest = describe(tx, offers, now)
    in_force = {price.offer_id: price for price in prices_at(tx, since, latest)}
    changed = [
        {
            "offer_id": offer.id,
            "price_per_hour_micros": offer.price_per_hour_micros,
            "currency": offer.currency,
            "source": source,
            "effective_at": since,
            "recorded_at": now,
        }
        for offer in latest.values()
        if _is_news(offer, in_force.get(offer.id))
    ]
    if changed:
        tx.execute(t.prices.insert(), changed)
    return bool(changed)


PRESENT = sa.select(t.offers.c.id).where(t.offers.c.id.in_(sa.bindparam("offers", expanding=True)))
DESCRIBE = (
    t.offers.update()
    .where(t.offers.c.id == sa.bindparam("b_id"))
    .values({key: sa.bindparam(f"b_{key}") for key in DESCRIPTION})
)


def describe(tx: sa.Connection, offers: Iterable[Offer], now: datetime) -> dict[str, Offer]:
    """Remember these offers, but not their prices. Returns them by id."""
    # a provider may list one offer twice; the last word counts
    latest = {offer.id: offer for offer in offers}
    if not latest:
        return latest
    present = set(tx.scalars(PRESENT, {"offers": list(latest)}))
    described = [_described(offer, now) for offer in latest.values()]
    if fresh := [row for row in described if row["id"] not in present]:
        tx.execute(t.offers.insert(), fresh)
    if seen := [row for row in described if row["id"] in present]:
        tx.execute(DESCRIBE, [{f"b_{key}": row[key] for key in ("id", *DESCRIPTION)} for row in seen])
    return latest


def record_prices(tx: sa.Connection, prices: Iterable[Priced], source: str, now: datetime) -> set[str]:
    """Remember a provider's own price history; what is known of it already is no news. Returns whose price moved.

    `prices` are oldest first, and the ledger knows every offer of them.
    """
    moved: set[str] = set()
    for price in prices:
        known = price_at(tx, price.offer_id, price.effective_at)
        if known is None or (known.price_per_hour_micros, known.currency) != (
            price.price_per_hour_micros,
            price.currency,
        ):
            row = {field.name: getattr(price, field.name) for field in fields(price)}
            tx.execute(t.prices.insert().values(row | {"source": source, "recorded_at": now}))
            moved.add(price.offer_id)
    return moved


PRICES_SINCE = (
    sa.select(*(t.prices.c[field.name] for field in fields(Priced)))
    .join(t.offers, t.prices.c.offer_id == t.offers.c.id)
    .where(t.offers.c.provider == sa.bindparam("provider"), t.prices.c.effective_at >= sa.bindparam("since"))
)


def prices_since(tx: sa.Connection, provider: str, since: datetime) -> frozenset[Priced]:
    """The prices of a provider that are recorded as in force from some moment since then on."""
    rows = tx.execute(PRICES_SINCE, {"provider": provider, "since": since})
    return frozenset(Priced(**row._mapping) for row in rows)


#: one step in the index for each offer, however long its history
NEWEST_PRICE_AT = sa.select(
    sa.func.max(
        sa.select(sa.func.max(t.prices.c.effective_at))
        .where(t.prices.c.offer_id == t.offers.c.id)
        .correlate(t.offers)
        .scalar_subquery()
    )
).where(t.offers.c.provider == sa.bindparam("provider"))


def newest_price_at(tx: sa.Connection, provider: str) -> datetime | None:
    """Since when the newest price of any offer of a provider is in force; None when it has none."""
    found: datetime | None = tx.scalar(NEWEST_PRICE_AT, {"provider": provider})
    return found


OLDER = t.prices.alias("older")
#: from the newest price that is no later than `since`, or from the first
LIFE_PRICES = (
    sa.select(t.prices)
    .where(t.prices.c.offer_id == sa.bindparam("offer"))
    .where(
        t.prices.c.effective_at
        >= sa.func.coalesce(
            sa.select(sa.func.max(OLDER.c.effective_at))
            .where(OLDER.c.offer_id == sa.bindparam("offer"), OLDER.c.effective_at <= sa.bindparam("since"))
            .scalar_subquery(),
            sa.bindparam("since"),
        )
    )
    .order_by(t.prices.c.effective_at, t.prices.c.id)
)


def life_prices(tx: sa.Connection, offer_id: str, since: datetime) -> tuple[Price, ...]:
    """The price in force at `since` (else the first one known) and all that came after it, oldest first."""
    found = tuple(map(_price, tx.execute(LIFE_PRICES, {"offer": offer_id, "since": since})))
    earlier = sum(price.effective_at <= since for price in found)
    return found[max(0, earlier - 1) :]


@lru_cache
def _known(of_some: bool, dated: bool) -> sa.Select[Any]:
    c = t.offers.c.provider
    wanted = c.in_(sa.bindparam("providers", expanding=True)) if of_some else c != MARKET
    return _priced(dated).where(wanted).order_by(t.offers.c.id)


@lru_cache
def _one(dated: bool) -> sa.Select[Any]:
    return _priced(dated).where(t.offers.c.id == sa.bindparam("offer"))


def known(tx: sa.Connection, providers: Collection[str] | None = None, at: datetime | None = None) -> tuple[Offer, ...]:
    """Offers with the price in force (at `at`, else the newest) and the memory of refusals and losses, ordered by id.

    Without `providers`: those of every provider that machines can be had from, so not the published lists (MARKET).
    """
    asked: dict[str, object] = {} if at is None else {"at": at}
    if providers is not None:
        asked |= {"providers": list(providers)}
    return tuple(map(_offer, tx.execute(_known(providers is not None, at is not None), asked)))


def get(tx: sa.Connection, offer_id: str, at: datetime | None = None) -> Offer:
    """One offer, as `known` gives it. Raises NoResultFound for one that was never recorded."""
    asked: dict[str, object] = {"offer": offer_id} if at is None else {"offer": offer_id, "at": at}
    return _offer(tx.execute(_one(at is not None), asked).one())


OF_OFFER = t.offers.update().where(t.offers.c.id == sa.bindparam("offer"))
REFUSED = OF_OFFER.values(refusals=t.offers.c.refusals + 1)
LOST = OF_OFFER.values(losses=t.offers.c.losses + 1)


def refused(tx: sa.Connection, offer_id: str, error: str, now: datetime) -> None:
    """A launch there was refused: one more in a row."""
    tx.execute(REFUSED, {"offer": offer_id, "refused_at": now, "refusal": error})


def accepted(tx: sa.Connection, offer_id: str) -> None:
    """A launch there succeeded: the row of refusals is over."""
    tx.execute(OF_OFFER, {"offer": offer_id, "refusals": 0, "refused_at": None, "refusal": None})


def lost(tx: sa.Connection, offer_id: str, now: datetime) -> None:
    """A machine of this offer was taken back or vanished."""
    tx.execute(LOST, {"offer": offer_id, "lost_at": now})


def price_at(tx: sa.Connection, offer_id: str, at: datetime) -> Price | None:
    """The price in force at `at`; None when none had been recorded for then."""
    return next(iter(prices_at(tx, at, [offer_id])), None)


@lru_cache
def _prices_at() -> sa.Select[Any]:
    query = sa.select(t.prices).select_from(t.offers).join(t.prices, t.prices.c.id == _in_force(dated=True))
    wanted = t.offers.c.id.in_(sa.bindparam("offers", expanding=True))
    return query.where(wanted).order_by(t.offers.c.id)


def prices_at(tx: sa.Connection, at: datetime, offer_ids: Collection[str]) -> tuple[Price, ...]:
    """The prices in force at `at` of these offers, for those that have one."""
    if not offer_ids:
        return ()
    rows = tx.execute(_prices_at(), {"at": at, "offers": list(offer_ids)})
    return tuple(map(_price, rows))


def history(tx: sa.Connection, offer_ids: Collection[str] | None = None) -> tuple[Price, ...]:
    """All prices ever recorded, of these offers or of all, oldest first."""
    query = sa.select(t.prices).order_by(t.prices.c.effective_at, t.prices.c.id)
    if offer_ids is not None:
        query = query.where(t.prices.c.offer_id.in_(offer_ids))
    return tuple(map(_price, tx.execute(query)))


def sources(tx: sa.Connection, offer_ids: Collection[str]) -> dict[str, str]:
    """Where the newest price of each of these offers came from."""
    query = sa.select(t.prices.c.offer_id, t.prices.c.source).select_from(t.offers)
    rows = tx.execute(query.join(t.prices, t.prices.c.id == _in_force(dated=False)).where(t.offers.c.id.in_(offer_ids)))
    return {row.offer_id: row.source for row in rows}


def add_profile(
    tx: sa.Connection,
    profile: Profile,
    measured_at: datetime,
    *,
    memory_bytes: int | None = None,
    note: str = "",
) -> None:
    """Add one measurement. Older ones stay; the newest of its kind speaks."""
    tx.execute(
        t.profiles.insert().values(
            model=profile.model,
            gpu=profile.gpu,
            precision=profile.precision,
            batch=profile.batch,
            images_per_second=profile.images_per_second,
            p95_ms=profile.p95_ms,
            memory_bytes=memory_bytes,
            source=profile.source,
            size=profile.size,
            note=note,
            measured_at=measured_at,
        )
    )


PROFILES = (
    sa.select(t.profiles)
    .where(t.profiles.c.model == sa.bindparam("model"))
    .order_by(t.profiles.c.measured_at, t.profiles.c.id)
)


def profiles(tx: sa.Connection, model: str) -> tuple[Profile, ...]:
    """The newest measurement of each GPU, precision, batch, source and size for this model, oldest first."""
    rows = tx.execute(PROFILES, {"model": model})
    newest: dict[tuple[str, str, int, str, str], Profile] = {}
    for row in rows:
        newest[row.gpu, row.precision, row.batch, row.source, row.size] = Profile(
            model=row.model,
            gpu=row.gpu,
            precision=row.precision,
            batch=row.batch,
            images_per_second=row.images_per_second,
            p95_ms=row.p95_ms,
            source=row.source,
            size=row.size,
        )
    return tuple(newest.values())


def models(tx: sa.Connection) -> tuple[str, ...]:
    """The models that anybody measured."""
    return tuple(tx.scalars(sa.select(t.profiles.c.model).distinct().order_by(t.profiles.c.model)))


def _priced(dated: bool) -> sa.Select[Any]:
    query = sa.select(t.offers, t.prices.c.price_per_hour_micros, t.prices.c.currency)
    return query.select_from(t.offers).outerjoin(t.prices, t.prices.c.id == _in_force(dated))


def _offer(row: sa.Row[Any]) -> Offer:
    return Offer(
        id=row.id,
        provider=row.provider,
        zone=row.zone,
        instance_type=row.instance_type,
        gpu=row.gpu,
        purchase=Purchase(row.purchase),
        price_per_hour_micros=row.price_per_hour_micros,
        currency=row.currency or "",
        capacity=row.capacity,
        refusals=row.refusals,
        refused_at=row.refused_at,
        lost_at=row.lost_at,
    )


def _described(offer: Offer, now: datetime) -> dict[str, object]:
    return {
        "id": offer.id,
        "provider": offer.provider,
        "zone": offer.zone,
        "instance_type": offer.instance_type,
        "gpu": offer.gpu,
        "purchase": offer.purchase.value,
        "capacity": offer.capacity,
        "seen_at": now,
        "refusals": 0,
        "losses": 0,
    }


def _is_news(offer: Offer, present: Price | None) -> bool:
    if offer.price_per_hour_micros is None:
        said_before = present is not None and present.price_per_hour_micros is not None
        return offer.purchase is Purchase.OWNED and said_before
    return present is None or (present.price_per_hour_micros, present.currency) != (
        offer.price_per_hour_micros,
        offer.currency,
    )


def _in_force(dated: bool) -> sa.ScalarSelect[int]:
    """The id of an offer's price (at `at`, else the newest): one step in the index, however long the history."""
    query = sa.select(OLDER.c.id).where(OLDER.c.offer_id == t.offers.c.id)
    if dated:
        query = query.where(OLDER.c.effective_at <= sa.bindparam("at"))
    newest = query.order_by(OLDER.c.effective_at.desc(), OLDER.c.id.desc()).limit(1)
    return newest.correlate(t.offers).scalar_subquery()


def _price(row: sa.Row[Any]) -> Price:
    return Price(
        offer_id=row.offer_id,
        price_per_hour_micros=row.price_per_hour_micros,
        currency=row.currency,
        source=row.source,
        effective_at=row.effective_at,
    )
