"""A folder of images becomes a job, or a clear word why not."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from orchestrator.errors import Refused
from orchestrator.ledger import deployments, jobs
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.jobs import Job
from orchestrator.ledger.store import Ledger

#: what counts as an image before anybody has looked into it; the engine has the last word
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})


def submit(
    ledger: Ledger,
    deployment: str | None,
    source: Path,
    destination: Path,
    fields: Sequence[str],
    now: datetime,
    deadline_at: datetime | None = None,
) -> Job:
    """Record a job over all images of `source` and its subfolders; `deployment` None means the only one there is.

    Raises Refused, with nothing recorded, for whatever would make the job impossible.
    """
    row = chosen(ledger, deployment)
    name = row.name
    source, destination = source.resolve(), destination.resolve()
    if destination.is_relative_to(source):
        raise Refused(f"destination {destination} lies inside the source {source}; name a folder outside it")
    names = list(images(source))
    if not names:
        raise Refused(f"source {source}: no images in it; these count as images: {' '.join(sorted(SUFFIXES))}")
    if deadline_at is not None:
        from orchestrator.jobs.promise import must_be_possible  # numpy comes with it

        must_be_possible(ledger, row, len(names), deadline_at, now)
    _make_writable(destination)
    with ledger.write() as tx:
        for other in jobs.known(tx, still_open=True):
            if other.destination == destination:
                raise Refused(f"job {other.id} still writes to {destination}; name another folder, or cancel that job")
        job_id = jobs.create(tx, name, source, destination, fields, names, now, deadline_at)
        job = jobs.get(tx, job_id)
    assert job is not None
    return job


def images(source: Path) -> Iterator[str]:
    """The images below a folder as relative names, a folder's files before its subfolders, each in order of names.

    Hidden files and folders are left out, links to folders not followed. Raises Refused when a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        remedy = "name a folder of images" if error.filename == str(source) else "allow reading it, or move it away"
        raise Refused(f"source {error.filename}: {error.strerror}; {remedy}")

    for folder, below, files in os.walk(source, onerror=refuse):
        below[:] = sorted(name for name in below if not name.startswith("."))
        relative = Path(folder).relative_to(source)
        for file in sorted(files):
            if file.startswith(".") or Path(file).suffix.lower() not in SUFFIXES:
                continue
            if Path(folder, file).is_file():
                yield str(relative / file)


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


def _make_writable(destination: Path) -> None:
    try:
        destination.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=destination):
            pass
    except OSError as error:
        remedy = "name a folder that can be written with --out"
        raise Refused(f"destination {destination}: {error.strerror}; {remedy}") from None
