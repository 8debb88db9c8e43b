"""What each machine of one's own cost in a month, and what it read for it: rows of one GPU, host by host."""

from dataclasses import dataclass
from fractions import Fraction

from orchestrator.billing import between, hours
from orchestrator.ledger import owned
from orchestrator.ledger.store import Transaction
from orchestrator.ledger.tallies import Rates
from policies.windows import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRow:
    """One deployment on one machine. `cost_micros` is what is known of it; None: nothing is."""

    deployment: str
    provider: str
    host: str  # "this": the machine that the daemon runs on
    gpu: str
    hours: Fraction
    unknown_hours: Fraction  # of these, at a price that nobody knows or that no rate converts
    cost_micros: int | None
    images: int


def host_rows(tx: Transaction, period: Span, rates: Rates) -> tuple[HostRow, ...]:
    """By deployment and host, in the currency that the rates lead to."""
    start, end = period.opens_at, period.closes_at
    booked, read = owned.booked(tx, start, end), owned.images(tx, start, end)
    found = []
    for box in sorted(booked.keys() | read.keys()):
        known, unknown = [], []
        for charge in booked.get(box, ()):
            rate = rates.get(charge.currency)
            micros = None if rate is None else between(charge, start, end, rate=rate)
            known += [] if micros is None else [micros]
            unknown += [charge] if micros is None else []
        found.append(
            HostRow(
                deployment=box.deployment,
                provider=box.provider,
                host=box.host,
                gpu=box.gpu,
                hours=hours(booked.get(box, ()), start, end),
                unknown_hours=hours(unknown, start, end),
                cost_micros=sum(known) if known else None,
                images=read.get(box, 0),
            )
        )
    return tuple(found)
