"""What was taken back or vanished, and what it cost to come back."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction

from orchestrator.billing import MICROSECOND, MICROSECONDS_PER_HOUR
from orchestrator.ledger.reporting import Life
from orchestrator.reports.prices import Rates
from orchestrator.reports.reckoning import Entry, cost
from policies.snapshot import Purchase
from policies.windows import Span

#: a machine that was asked for within so long of a loss is taken to stand in for what was lost
REPLACED_WITHIN = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruptions:
    """Of one kind of machine: how many were lost in the period, and what booting those in their stead took and cost."""

    deployment: str
    gpu: str
    purchase: Purchase
    count: int
    replaced: int
    boot_seconds: int
    recovery_micros: int | None  # paid for machines that did not serve yet; None: at a price that nobody knows


def interruptions(
    lives: Sequence[Life], entries: Mapping[str, Sequence[Entry]], period: Span, rates: Rates
) -> tuple[Interruptions, ...]:
    """The losses of the period. Each is put down to the first machine that was asked for after it and is not taken yet.

    `lives` by when they were asked for, `entries` by machine. What a replacement costs before it is ready is the price
    of the loss; what was read twice is not money and is not counted.
    """
    lost = sorted(
        (one for one in lives if within(one.lost_at, period)), key=lambda one: one.lost_at or one.requested_at
    )
    launched: dict[str, list[Life]] = {}
    for one in lives:
        if one.launched_at is not None:
            launched.setdefault(one.deployment, []).append(one)
    following: dict[str, int] = {}  # by deployment: the first machine that stands in for nothing yet
    found: dict[tuple[str, str, Purchase], list[tuple[int, int | None] | None]] = {}
    for one in lost:
        assert one.lost_at is not None
        mine = launched.get(one.deployment, [])
        place = max(
            following.get(one.deployment, 0), bisect_left(mine, one.lost_at, key=lambda life: life.requested_at)
        )
        boot = None
        if place < len(mine) and mine[place].requested_at - one.lost_at <= REPLACED_WITHIN:
            boot = _boot(mine[place], entries, period, rates)
            following[one.deployment] = place + 1
        found.setdefault((one.deployment, one.gpu, one.purchase), []).append(boot)
    return tuple(_added(kind, boots) for kind, boots in sorted(found.items()))


def boot_hours(lives: Sequence[Life], period: Span) -> dict[tuple[str, str, Purchase], Fraction]:
    """Hours of the period that machines ran and did not serve yet, by kind."""
    found: dict[tuple[str, str, Purchase], Fraction] = {}
    for one in lives:
        start, end = _booting(one, period)
        kind = one.deployment, one.gpu, one.purchase
        hours = Fraction(max(timedelta(0), end - start) // MICROSECOND, MICROSECONDS_PER_HOUR)
        found[kind] = found.get(kind, Fraction(0)) + hours
    return found


def within(at: datetime | None, period: Span) -> bool:
    """Whether a moment lies in the period."""
    return at is not None and period.opens_at <= at < period.closes_at


def _boot(one: Life, entries: Mapping[str, Sequence[Entry]], period: Span, rates: Rates) -> tuple[int, int | None]:
    start, end = _booting(one, period)
    mine = [entry for entry in entries.get(one.instance_id, ()) if entry.is_machine_time]
    unknown = any(entry.micros is None and entry.starts_at < end for entry in mine)
    seconds = max(timedelta(0), end - start) // timedelta(seconds=1)
    return seconds, None if unknown else cost(mine, start, end, rates) if start < end else 0


def _booting(one: Life, period: Span) -> tuple[datetime, datetime]:
    """The part of the period between its launch and its first answer, or its end."""
    if one.launched_at is None:
        return period.closes_at, period.closes_at
    up = min((at for at in (one.ready_at, one.ended_at) if at is not None), default=period.closes_at)
    return max(one.launched_at, period.opens_at), min(up, period.closes_at)


def _added(kind: tuple[str, str, Purchase], boots: Sequence[tuple[int, int | None] | None]) -> Interruptions:
    known = [one for one in boots if one is not None]
    costs = [micros for _, micros in known]
    deployment, gpu, purchase = kind
    return Interruptions(
        deployment=deployment,
        gpu=gpu,
        purchase=purchase,
        count=len(boots),
        replaced=len(known),
        boot_seconds=sum(seconds for seconds, _ in known),
        recovery_micros=None if None in costs else sum(micros for micros in costs if micros is not None),
    )
