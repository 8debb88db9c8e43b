"""Images become a job, or a clear word why not."""

import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from orchestrator import s3, spec
from orchestrator.errors import Refused
from orchestrator.jobs import sources
from orchestrator.ledger import deployments, jobs
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.jobs import Job
from orchestrator.ledger.store import Ledger


def submit(
    ledger: Ledger,
    deployment: str | None,
    source: str | Path,
    destination: str | Path,
    fields: Sequence[str],
    now: datetime,
    deadline_at: datetime | None = None,
    *,
    budget: str | None = None,
) -> Job:
    """Record a job over all images that `source` names; `deployment` None means the only one there is.

    Raises Refused, with nothing recorded, for whatever would make the job impossible.
    """
    row = chosen(ledger, deployment)
    currency = _currency(row)
    most = None if budget is None else micros(budget, currency)
    target = _destination(str(destination))
    found = sources.listed(str(source))
    if found.walked and lies_in(target, found.root):
        raise Refused(f"destination {target} lies inside the source {found.root}; name a folder outside it")
    if deadline_at is not None:
        from orchestrator.jobs.promise import must_be_possible  # numpy comes with it

        must_be_possible(ledger, row, len(found.names), deadline_at, now)
    _make_writable(target)
    with ledger.write() as tx:
        for other in jobs.known(tx, still_open=True):
            if other.destination == target:
                raise Refused(f"job {other.id} still writes to {target}; name another folder, or cancel that job")
        job_id = jobs.create(
            tx,
            row.name,
            found.root,
            target,
            fields,
            found.names,
            now,
            deadline_at,
            currency=currency,
            budget_micros=most,
        )
        job = jobs.get(tx, job_id)
    assert job is not None
    return job


def micros(budget: str, currency: str) -> int:
    """An amount of money in a deployment's currency. Raises Refused."""
    try:
        amount = spec.money(budget, currency)
    except ValueError as error:
        raise Refused(f"--budget {budget}: {error}") from None
    if amount.currency != currency:
        raise Refused(f"--budget {budget}: this deployment counts in {currency or 'no currency'}; name it in that")
    if not amount.micros:
        raise Refused(f"--budget {budget}: nothing can be read for nothing; leave it out for no limit")
    return amount.micros


def lies_in(place: Path | s3.Address, outer: Path | s3.Address) -> bool:
    """Whether one lies in or below the other."""
    if isinstance(place, s3.Address):
        return isinstance(outer, s3.Address) and place.is_relative_to(outer)
    return isinstance(outer, Path) and place.is_relative_to(outer)


def chosen(ledger: Ledger, name: str | None) -> Deployment:
    """The deployment of that name; None: the only one there is. Raises Refused, naming those that there are."""
    with ledger.read() as tx:
        known = deployments.known(tx)
    there = ", ".join(row.name for row in known)
    if not known:
        raise Refused("there is no deployment yet; `halve up SPEC` makes one")
    if name is not None:
        found = next((row for row in known if row.name == name), None)
        if found is None:
            raise Refused(f"deployment {name}: unknown; there are: {there}")
        return found
    candidates = [row for row in known if row.wanted == "up"] or known
    if len(candidates) > 1:
        raise Refused(f"several deployments: choose one with --deployment NAME; there are: {there}")
    return candidates[0]


def _currency(row: Deployment) -> str:
    """What the deployment's reports speak; empty when its spec no longer parses, which is not for a batch to say."""
    try:
        return spec.parse(row.spec, row.source).currency
    except Refused:
        return ""


def _destination(text: str) -> Path | s3.Address:
    try:
        place = jobs.place(text)
    except ValueError as error:
        raise Refused(f"destination {error}") from None
    return place.resolve() if isinstance(place, Path) else place


def _make_writable(destination: Path | s3.Address) -> None:
    try:
        if isinstance(destination, s3.Address):
            probe = destination / ".halve-probe"
            s3.write(probe, b"")
            s3.delete(probe)
            return
        destination.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=destination):
            pass
    except OSError as error:
        remedy = "name a folder that can be written with --out"
        raise Refused(f"destination {destination}: {error.strerror}; {remedy}") from None
