"""What a job costs: of what its deployment costs while the job runs, the share of the images that were the job's.

A stretch in which nobody read anything (machines that start, say) is paid by the running jobs alike.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from fractions import Fraction

from orchestrator import billing, spec
from orchestrator.errors import Refused
from orchestrator.ledger import deployments, jobs, shares, sums
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.jobs import Job
from orchestrator.ledger.store import Transaction
from orchestrator.spec import Money


def account(tx: Transaction, job: Job, running: Sequence[Job], now: datetime) -> None:
    """Charge `job` for the time from its `costed_at` to `now`. `running` are the jobs that ran in that time."""
    if job.costed_at is None:
        shares.charge(tx, job, 0, False, now)
        return
    if now <= job.costed_at:
        return
    spent, unpriced = _spent(tx, job, now)
    shares.charge(tx, job, spent * _share(tx, job, running, now) // 1, unpriced, now)


def stop_spent(tx: Transaction, job: Job) -> bool:
    """Pause a job that has cost as much as it may. Returns whether it was that far."""
    if not job.spent or job.budget_micros is None:
        return False
    budget = Money(job.budget_micros, job.currency)
    remedy = f"`halve job resume {job.id} --budget AMOUNT` with a larger one goes on"
    return jobs.pause(tx, job.id, f"its budget of {budget} is spent; {remedy}")


def _spent(tx: Transaction, job: Job, now: datetime) -> tuple[int, bool]:
    """What the deployment has cost since then, in the job's currency, and whether a price of it is unknown."""
    assert job.costed_at is not None
    row = deployments.get(tx, job.deployment)
    if row is None:
        return 0, False
    rates = _rates(row) | {job.currency: Fraction(1)}
    total, unpriced = 0, False
    for one in sums.within(tx, job.deployment, job.costed_at, now):
        rate = rates.get(one.currency) if one.currency else None
        due = None if rate is None else billing.between(one, job.costed_at, now, rate=rate)
        if due is None:
            unpriced = True
        else:
            total += due
    return total, unpriced


def _rates(row: Deployment) -> dict[str, Fraction]:
    """The spec's rates; none when it no longer parses: what is in the job's own currency counts all the same."""
    with suppress(Refused):
        return {code: Fraction(rate.rate) for code, rate in spec.parse(row.spec, row.source).rates.items()}
    return {}


def _share(tx: Transaction, job: Job, running: Sequence[Job], now: datetime) -> Fraction:
    assert job.costed_at is not None
    of_deployment = [one.id for one in running if one.deployment == job.deployment] or [job.id]
    settled = {one: shares.settled(tx, one, job.costed_at, now) for one in {*of_deployment, job.id}}
    everybody = max(shares.images(tx, job.deployment, job.costed_at, now), sum(settled.values()))
    return Fraction(settled[job.id], everybody) if everybody else Fraction(1, len(of_deployment))
