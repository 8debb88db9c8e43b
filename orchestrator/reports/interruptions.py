"""What was taken back or vanished, and what it cost to come back."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.billing import MICROSECOND
from orchestrator.ledger import lives, reporting
from orchestrator.ledger.lives import Life
from orchestrator.ledger.reporting import Booked
from orchestrator.ledger.store import Transaction
from orchestrator.ledger.tallies import Rates
from orchestrator.reports.reckoning import grouped, reckon
from policies.snapshot import Purchase
from policies.windows import Span

#: a machine that was asked for within so long of a loss is taken to stand in for what was lost
REPLACED_WITHIN = timedelta(hours=1)


#: deployment, GPU and purchase
Kind = tuple[str, str, Purchase]


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


def interruptions(tx: Transaction, period: Span, rates: Rates) -> tuple[Interruptions, ...]:
    """The losses of the period. Each is put down to the first machine that was asked for after it and is not taken yet.

    What a replacement costs before it is ready is the price of the loss; what was read twice is not money and is not
    counted.
    """
    found: dict[Kind, list[str | None]] = {}
    losses = lives.lost(tx, period.opens_at, period.closes_at)
    for name, lost in grouped(losses, lambda one: one.deployment).items():
        moments = [one.lost_at for one in lost if one.lost_at is not None]
        launched = lives.launched(tx, name, moments[0], min(moments[-1] + REPLACED_WITHIN, period.closes_at))
        for one, stand_in in zip(lost, _stand_ins(moments, launched), strict=True):
            found.setdefault((one.deployment, one.gpu, one.purchase), []).append(stand_in)
    came = {one for stand_ins in found.values() for one in stand_ins if one is not None}
    charged = grouped(reporting.charges_of(tx, came), lambda one: one.instance_id)
    boots = {name: _boot(life, charged.get(name, ()), period, rates) for name, life in lives.of(tx, came).items()}
    return tuple(_added(kind, stand_ins, boots) for kind, stand_ins in sorted(found.items()))


def _stand_ins(moments: Sequence[datetime], launched: Sequence[tuple[int, str]]) -> list[str | None]:
    """For each loss, in order, the machine that stands in for it."""
    found: list[str | None] = []
    following = 0
    for lost_at in map(reporting.microseconds, moments):
        place = max(following, bisect_left(launched, (lost_at, "")))
        in_time = place < len(launched) and launched[place][0] - lost_at <= REPLACED_WITHIN // MICROSECOND
        found.append(launched[place][1] if in_time else None)
        following = place + 1 if in_time else following
    return found


def within(at: datetime | None, period: Span) -> bool:
    """Whether a moment lies in the period."""
    return at is not None and period.opens_at <= at < period.closes_at


def _added(kind: Kind, stand_ins: Sequence[str | None], boots: Mapping[str, tuple[int, int | None]]) -> Interruptions:
    took = [boots[one] for one in stand_ins if one is not None]
    costs = [micros for _, micros in took]
    deployment, gpu, purchase = kind
    return Interruptions(
        deployment=deployment,
        gpu=gpu,
        purchase=purchase,
        count=len(stand_ins),
        replaced=len(took),
        boot_seconds=sum(seconds for seconds, _ in took),
        recovery_micros=None if None in costs else sum(micros for micros in costs if micros is not None),
    )


def _boot(one: Life, charged: Sequence[Booked], period: Span, rates: Rates) -> tuple[int, int | None]:
    """Seconds of the period between its launch and its first answer, or its end, and what they cost."""
    up_at = min((at for at in (one.ready_at, one.ended_at) if at is not None), default=period.closes_at)
    start, end = max(one.launched_at or up_at, period.opens_at), min(up_at, period.closes_at)
    if end <= start:
        return 0, 0
    running = [entry for entry in reckon(charged, Span(opens_at=start, closes_at=end), rates) if entry.is_machine_time]
    known = [entry.micros for entry in running if entry.micros is not None]
    return (end - start) // timedelta(seconds=1), sum(known) if len(known) == len(running) else None
