"""What a deployment has spent: what a budget is held against, and what `halve status` says."""

from collections.abc import Mapping
from datetime import datetime
from fractions import Fraction

from orchestrator import billing
from orchestrator.ledger import sums
from orchestrator.ledger.store import Transaction
from policies.policy import Policy
from policies.snapshot import Spend


def spend(tx: Transaction, deployment: str, now: datetime, policy: Policy) -> Spend:
    """Money spent in the schedule's current month and day, up to now, in the policy's currency."""
    local = now.astimezone(policy.schedule.zone)
    day = local.replace(hour=0, minute=0, second=0, microsecond=0)
    month = day.replace(day=1)
    currency = policy.currency or _currency(tx, deployment, month, now)
    month_micros, unknown = _spent(tx, deployment, month, now, currency, policy.rates)
    day_micros, _ = _spent(tx, deployment, day, now, currency, policy.rates)
    return Spend(month_micros=month_micros, day_micros=day_micros, currency=currency, unknown_hours=float(unknown))


def _currency(tx: Transaction, deployment: str, start: datetime, now: datetime) -> str:
    """That of the prices: of what runs, else of what ran."""
    running = (row.currency for row in sums.within(tx, deployment, start, now, summed=False) if row.currency)
    return next(running, min(filter(None, sums.closed(tx, deployment, start, now)), default=""))


def _spent(
    tx: Transaction, deployment: str, start: datetime, now: datetime, currency: str, rates: Mapping[str, Fraction]
) -> tuple[int, Fraction]:
    """Micro-units in [start, now), and the machine hours at a price that is unknown, or not known in this currency.

    What is closed is summed by the database, unless it has to be converted: then each charge is rounded by itself.
    """
    closed = sums.closed(tx, deployment, start, now)
    converted = any(code in rates for code in closed if code != currency)
    if converted:
        closed = {}
    total, _ = closed.pop(currency, (0, 0))
    unknown = Fraction(sum(time for _, time in closed.values()), billing.MICROSECONDS_PER_HOUR)
    for row in sums.within(tx, deployment, start, now, summed=converted):
        rate = 1 if row.currency == currency else rates.get(row.currency)
        if rate is None or billing.accrued(row, now) is None:
            unknown += billing.hours([row], start, now)
        else:
            total += billing.between(row, start, now, rate=rate) or 0
    return total, unknown
