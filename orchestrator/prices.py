"""Prices and speeds on their way into the ledger: the published table, and what this machine measured itself."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

from orchestrator import seeds
from orchestrator.home import home
from orchestrator.ledger import offers
from orchestrator.ledger.quotes import SINCE_EVER
from orchestrator.ledger.store import Ledger, open_ledger
from policies.snapshot import Offer, Profile, Purchase


def seed(ledger: Ledger, now: datetime | None = None) -> None:
    """Write the published table into the ledger. Idempotent: what is there already, changed or not, is left alone."""
    now = now or datetime.now(UTC)
    with ledger.read() as tx:
        missing = _missing(offers.known(tx, [offers.MARKET]), offers.profiles(tx, seeds.MODEL))
    if not any(missing):
        return
    with ledger.write() as tx:
        priced, measured = _missing(offers.known(tx, [offers.MARKET]), offers.profiles(tx, seeds.MODEL))
        offers.record(tx, [_offer(row) for row in priced], seeds.SOURCE, now, effective_at=SINCE_EVER)
        for row in measured:
            memory = None if row.peak_memory_gb is None else int(Decimal(row.peak_memory_gb) * 10**9)
            offers.add_profile(tx, _profile(row), now, memory_bytes=memory, note=row.note)


def record_bench(
    *,
    model: str,
    gpu: str,
    precision: str,
    batch: int,
    images_per_second: float,
    p95_ms: float | None,
    memory_bytes: int | None = None,
    threads: int | None = None,
    size: str = "",
    note: str = "",
) -> None:
    """Add what this machine measured to the table in HALVE_HOME's ledger; `size` as a Profile's.

    Raises Refused when it cannot be written.
    """
    profile = Profile(
        model=model,
        gpu=gpu,
        precision=precision,
        batch=batch,
        images_per_second=images_per_second,
        p95_ms=p95_ms,
        source="bench",
        size=size,
    )
    words = [note] if note else []
    if threads is not None:
        words.append(f"{threads} threads")
    ledger = open_ledger(home())
    try:
        with ledger.write() as tx:
            offers.add_profile(tx, profile, datetime.now(UTC), memory_bytes=memory_bytes, note=", ".join(words))
    finally:
        ledger.close()


def micros(amount: str) -> int:
    """Decimal text as integer micro-units: '4.20' is 4_200_000. Raises ValueError beyond six decimals."""
    exact = Decimal(amount) * 1_000_000
    if exact != exact.to_integral_value():
        raise ValueError(f"{amount}: more than six decimals")
    return int(exact)


def _missing(present: Sequence[Offer], profiles: Sequence[Profile]) -> tuple[list[seeds.Row], list[seeds.Row]]:
    """The table's rows that are not offers yet, and those whose speed is not a profile yet."""
    ids = {offer.id for offer in present}
    gpus = {profile.gpu for profile in profiles if profile.source == seeds.SOURCE}
    unpriced = [row for row in seeds.TABLE if _offer(row).id not in ids]
    return unpriced, [row for row in seeds.TABLE if row.seconds_per_image is not None and row.gpu not in gpus]


def _offer(row: seeds.Row) -> Offer:
    return Offer(
        id=f"{offers.MARKET}/{row.gpu}",
        provider=offers.MARKET,
        zone="",
        instance_type=row.machine,
        gpu=row.gpu,
        purchase=Purchase.ON_DEMAND,
        price_per_hour_micros=None if row.price_per_hour is None else micros(row.price_per_hour),
        currency=seeds.CURRENCY if row.price_per_hour is not None else "",
    )


def _profile(row: seeds.Row) -> Profile:
    seconds = Fraction(row.seconds_per_image or 0)
    return Profile(
        model=seeds.MODEL,
        gpu=row.gpu,
        precision="fp32",
        batch=1,
        images_per_second=float(1 / seconds),
        # one image at a time, so the time of one stands for the 95th percentile
        p95_ms=float(seconds * 1000),
        source=seeds.SOURCE,
    )
