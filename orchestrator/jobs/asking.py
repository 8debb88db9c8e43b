"""What a user asks of jobs: how they go, to pause, resume or cancel them, and for their results."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

from orchestrator.errors import Refused
from orchestrator.holder import is_alive
from orchestrator.jobs import results
from orchestrator.jobs.submission import micros
from orchestrator.ledger import deployments, jobs, leases
from orchestrator.ledger.jobs import OPEN, ItemState, Job, Progress, State
from orchestrator.ledger.store import Ledger
from orchestrator.spec import Money


def look(ledger: Ledger, job_id: int, now: datetime) -> tuple[Job, Progress]:
    """A job and how far it is. Raises Refused when there is none of that number."""
    with ledger.read() as tx:
        job = jobs.get(tx, job_id)
        if job is None:
            raise Refused(f"job {job_id}: there is none; `halve job list` shows those there are")
        return job, jobs.progress(tx, job, now)


def look_at_all(ledger: Ledger, now: datetime) -> list[tuple[Job, Progress]]:
    """All jobs, oldest first."""
    with ledger.read() as tx:
        return [(job, jobs.progress(tx, job, now)) for job in jobs.known(tx)]


def pause(ledger: Ledger, job_id: int, now: datetime) -> Job:
    """Send no more of it; what is under way still counts."""
    with ledger.write() as tx:
        jobs.pause(tx, job_id, "by its user")
    return _steered(ledger, job_id, now, State.PAUSED)


def resume(ledger: Ledger, job_id: int, now: datetime, budget: str | None = None) -> Job:
    """Go on with it, and let it cost `budget`, an amount such as `20` or `20 CNY`, when given.

    Raises Refused for a job that has cost all that it may.
    """
    job, _ = look(ledger, job_id, now)
    with ledger.write() as tx:
        if budget is not None:
            job = replace(job, budget_micros=micros(budget, job.currency))
        if job.spent and job.state in OPEN:
            cost, most = Money(job.cost_micros, job.currency), Money(job.budget_micros or 0, job.currency)
            raise Refused(f"job {job_id} has cost {cost} of its budget of {most}; name a larger one with --budget")
        if budget is not None and job.budget_micros is not None:
            jobs.allow(tx, job_id, job.budget_micros)
        jobs.resume(tx, job_id)
    return _steered(ledger, job_id, now, State.RUNNING)


def cancel(ledger: Ledger, job_id: int, now: datetime) -> Job:
    """End it where it is. Results that are there stay."""
    with ledger.write() as tx:
        jobs.cancel(tx, job_id, now)
    job = _steered(ledger, job_id, now, State.CANCELLED)
    results.clear(job)
    return job


def unattended(ledger: Ledger, deployment: str, now: datetime) -> str | None:
    """Why nobody runs the jobs of a deployment now, and what to do; None when somebody does."""
    with ledger.read() as tx:
        held, row = leases.held(tx), deployments.get(tx, deployment)
    remedy = f"`halve up {row.source if row is not None else 'SPEC'}` will run it"
    if not is_alive(held, now):
        return f"no daemon is running: {remedy}"
    if row is None or row.wanted != "up":
        return f"deployment {deployment} is down: {remedy}"
    return None


def result_lines(ledger: Ledger, job_id: int, now: datetime, *, errors: bool) -> Iterator[bytes]:
    """The results so far, or the errors, a line of JSON each, in the order of the items. Raises Refused."""
    job, _ = look(ledger, job_id, now)
    settled = results.settled(ledger, job_id)
    if errors:
        yield from (results.error_line(outcome) for outcome in settled if outcome.state is ItemState.FAILED)
        return
    try:
        yield from (line for _, line in results.with_results(job, settled) if line is not None)
    except OSError as error:
        raise Refused(f"job {job_id}: {job.destination}: {error.strerror}; its results lie there") from None


def values(job: Job, progress: Progress, now: datetime) -> dict[str, Any]:
    """A job as JSON values. Unknown is null: `items_per_second` while nothing moves, and `eta_seconds` with it; what it
    costs where no price is known. `margin_seconds` is how long before its deadline it ends at this pace.
    """
    pace, eta = progress.items_per_second, progress.eta_seconds
    return {
        "id": job.id,
        "deployment": job.deployment,
        "state": str(job.state),
        "reason": job.reason,
        "items": job.total,
        "waiting": progress.waiting,
        "leased": progress.leased,
        "done": job.done,
        "failed": job.failed,
        "items_per_second": None if pace is None else round(pace, 3),
        "eta_seconds": None if eta is None else round(eta, 1),
        "margin_seconds": _margin_seconds(job, eta, now),
        "currency": job.currency,
        "cost_micros": None if job.unpriced else job.cost_micros,
        "cost_to_go_micros": job.cost_to_go_micros,
        "budget_micros": job.budget_micros,
        "source": str(job.source),
        "destination": str(job.destination),
        "fields": list(job.fields),
        "submitted_at": _iso(job.submitted_at),
        "finished_at": _iso(job.finished_at),
        "deadline_at": _iso(job.deadline_at),
        "resumes_at": _iso(job.resumes_at),
    }


def _margin_seconds(job: Job, eta_seconds: float | None, now: datetime) -> float | None:
    if job.deadline_at is None or job.state is State.CANCELLED:
        return None
    if job.finished_at is not None:
        return round((job.deadline_at - job.finished_at).total_seconds(), 1)
    return None if eta_seconds is None else round((job.deadline_at - now).total_seconds() - eta_seconds, 1)


def _steered(ledger: Ledger, job_id: int, now: datetime, wanted: State) -> Job:
    job, _ = look(ledger, job_id, now)
    if job.state is not wanted and job.state not in OPEN:
        raise Refused(f"job {job_id} is {job.state}: nothing of it can be {wanted} any more")
    return job


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="seconds").replace("+00:00", "Z")
