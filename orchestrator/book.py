"""What a change in a machine's life means for its launch intent and for its charges."""

from collections.abc import Sequence
from datetime import datetime

from orchestrator.billing import Life, Terms
from orchestrator.ledger import charges, intents, offers
from orchestrator.ledger.fleet import Machine
from orchestrator.ledger.offers import Price
from orchestrator.ledger.store import Transaction
from orchestrator.providers import Listed, State
from policies.lifecycle import OVER, Status
from policies.snapshot import Purchase


def settle(
    tx: Transaction, before: Machine, after: Machine, listed: Listed | None, terms: Terms, now: datetime
) -> None:
    """Open, follow and close charges: each price from its moment on, from the launch to the end.

    A charge of a machine that is over and that its provider lists so is brought to what the bill will say.
    """
    if before.launched_at is None and after.launched_at is not None:
        intents.settle(tx, after.intent_id, "done", now=after.launched_at)
    if after.launched_at is None:
        return
    prices = offers.life_prices(tx, after.offer_id, after.launched_at)
    ends = _ends(after, listed)
    since = _unbooked_since(before, after, listed, now)
    if since is not None:
        price, currency = charges.in_force(prices, since)
        charges.start(tx, after, price_per_hour_micros=price, currency=currency, started_at=since)
        if terms.disk_per_hour_micros:
            disk = terms.disk_per_hour_micros
            charges.start(tx, after, price_per_hour_micros=disk, currency=currency, started_at=since, kind=charges.DISK)
    if listed is not None:
        charges.switch(tx, after, listed.stops, prices)
    charges.follow(tx, after, prices, ends or now)
    if ends is not None:
        charges.close(tx, after, ends, charges.COMPUTE)
    if after.status in OVER or after.status is Status.LOST:
        charges.close(tx, after, after.ended_at or after.missing_since or now)
    if listed is not None and listed.state is State.GONE:
        _as_billed(tx, after, listed.stops, listed.preempted, prices, terms)
    elif after.purchase is not Purchase.OWNED:
        charges.catch_up(tx, after, prices)


def rebook(tx: Transaction, machine: Machine, listed: Listed | None, terms: Terms, now: datetime) -> None:
    """What a machine costs, or has cost, by prices that were learned since: of one that is over and no longer listed,
    by what the ledger knows of its life.

    The charge of one that is not over goes on, whatever is listed of it: it may be another deployment's, whose own tick
    says what became of it and of its charge in one transaction.
    """
    if machine.launched_at is None:
        return
    prices = offers.life_prices(tx, machine.offer_id, machine.launched_at)
    if machine.status not in OVER:
        ends = None if listed is None else listed.stopped_at or listed.ended_at
        charges.follow(tx, machine, prices, ends or now)
        if machine.purchase is not Purchase.OWNED:
            charges.catch_up(tx, machine, prices)
        return
    gone = listed if listed is not None and listed.state is State.GONE else None
    stops = charges.stops(tx, machine) if gone is None else gone.stops
    _as_billed(tx, machine, stops, machine.status is Status.PREEMPTED, prices, terms)


def _as_billed(
    tx: Transaction,
    machine: Machine,
    stops: charges.Stops,
    preempted: bool,
    prices: Sequence[Price],
    terms: Terms,
) -> None:
    """Bring the charges of a rented machine that is over to what the bill will say."""
    if machine.launched_at is None or machine.ended_at is None or machine.purchase is Purchase.OWNED:
        return
    life = Life(
        launched_at=machine.launched_at,
        ended_at=machine.ended_at,
        stops=tuple(stops),
        reclaimed=preempted and machine.purchase is Purchase.SPOT,
    )
    charges.settle(tx, machine, life, prices, terms)


def _ends(machine: Machine, listed: Listed | None) -> datetime | None:
    """When its compute stopped to cost; None: it goes on."""
    if machine.status is Status.STOPPED or (listed is not None and listed.stopped_at is not None):
        return listed.stopped_at if listed is not None else machine.missing_since
    if machine.status in OVER:
        return machine.ended_at
    return machine.missing_since if machine.status is Status.LOST else None


def _unbooked_since(before: Machine, after: Machine, listed: Listed | None, now: datetime) -> datetime | None:
    """Since when a machine costs money that is on no charge yet; None: nothing new."""
    if before.launched_at is None:
        return after.launched_at
    if before.status is Status.LOST and after.status is not Status.LOST:
        return before.missing_since
    if before.status is Status.STOPPED and after.status is Status.DRAINING:
        return None if listed is not None and listed.stops else now  # it was switched on again; since when is not said
    return before.ended_at if before.status in OVER else None
