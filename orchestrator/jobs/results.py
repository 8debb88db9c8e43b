"""What a job leaves in its destination: `<name>.json` per image, and `results.jsonl` and `errors.jsonl` at its end."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from orchestrator import s3
from orchestrator.jobs import destinations
from orchestrator.ledger import items, jobs
from orchestrator.ledger.items import Item, Outcome
from orchestrator.ledger.jobs import ItemState, Job
from orchestrator.ledger.store import Ledger

#: a destination takes results again when it takes this much
PROBE_BYTES = 2**20
#: results fetched from S3 at once
FETCHED_AT_ONCE = 32


class Unwritable(Exception):
    """The destination takes nothing now, whatever the item."""


def write(job: Job, item: Item, result: Mapping[str, Any], still_wanted: Callable[[], bool]) -> bool:
    """Put one result in its place, for good; whoever did so before is replaced. False: it is no longer wanted.

    Raises Unwritable or Unnameable, leaving nothing.
    """
    content = line({**result, "original_filename": item.name})
    with _said_plainly(job):
        return destinations.of(job).keep(item.name, f"{item.number}.{item.attempt}", content, still_wanted)


def assemble(job: Job, settled: Iterable[Outcome]) -> int:
    """Write results.jsonl and errors.jsonl whole, in the order of the items; returns how many results were gone.

    Raises Unwritable.
    """
    gone = 0
    destination = destinations.of(job)
    with _said_plainly(job):
        with destination.whole("results.jsonl") as read, destination.whole("errors.jsonl") as failed:
            for outcome, result in with_results(job, settled):
                if outcome.state is ItemState.FAILED:
                    failed.write(error_line(outcome))
                elif result is None:
                    gone += 1
                else:
                    read.write(result)
        destination.clear()
    return gone


def clear(job: Job) -> None:
    """Remove the drafts that a crash has left."""
    destinations.of(job).clear()


def takes_results(job: Job) -> None:
    """Raises Unwritable unless the destination takes a file of some size."""
    with _said_plainly(job):
        destinations.of(job).probe(PROBE_BYTES)


def settled(ledger: Ledger, job_id: int) -> Iterator[Outcome]:
    """The settled items of a job in order, a page at a time: no transaction outlives a page."""
    after = 0
    while True:
        with ledger.read() as tx:
            page = items.outcomes(tx, job_id, after, jobs.BATCH)
        yield from page
        if len(page) < jobs.BATCH:
            return
        after = page[-1].number


def with_results(job: Job, settled: Iterable[Outcome]) -> Iterator[tuple[Outcome, bytes | None]]:
    """Each settled item with its result as one line; None for one that failed, or when somebody took the file away."""
    destination = destinations.of(job)

    def found(outcome: Outcome) -> bytes | None:
        return None if outcome.state is ItemState.FAILED else destination.kept(outcome.name)

    if not isinstance(job.destination, s3.Address):
        yield from ((outcome, found(outcome)) for outcome in settled)
        return
    with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:  # each takes a while, and none waits for another
        for page in _pages(settled, FETCHED_AT_ONCE * 8):
            yield from zip(page, pool.map(found, page), strict=True)


def error_line(outcome: Outcome) -> bytes:
    return line({"original_filename": outcome.name, "error": outcome.error or ""})


def line(value: Mapping[str, Any]) -> bytes:
    """One line of JSON in UTF-8. Bytes of a file name that are not UTF-8 become escapes that lose nothing."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n"


def _pages(settled: Iterable[Outcome], size: int) -> Iterator[list[Outcome]]:
    page: list[Outcome] = []
    for outcome in settled:
        page.append(outcome)
        if len(page) == size:
            yield page
            page = []
    yield page


@contextmanager
def _said_plainly(job: Job) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unwritable(f"{job.destination}: {error.strerror}; put that right, and it goes on by itself") from None
