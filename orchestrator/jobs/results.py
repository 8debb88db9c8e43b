"""What a job leaves in its destination: `<name>.json` per image, and `results.jsonl` and `errors.jsonl` at its end.

A file is there whole or not at all. Drafts lie in a hidden folder of the destination until they are on the disk.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.ledger import items, jobs
from orchestrator.ledger.items import Item, Outcome
from orchestrator.ledger.jobs import ItemState, Job
from orchestrator.ledger.store import Ledger

#: a destination takes results again when it takes this much
PROBE_BYTES = 2**20
#: the destination cannot have a file of this name: that is about the item, not about the disk
NAME_ERRORS = frozenset({errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EILSEQ, errno.EINVAL})


class Unwritable(Exception):
    """The destination takes nothing now, whatever the item."""


class Unnameable(Exception):
    """The destination cannot have a file of this item's name."""


def place(job: Job, name: str) -> Path:
    """Where an item's result lies. Raises Unnameable for a name that would leave the destination."""
    parts = Path(name).parts
    if not parts or ".." in parts or Path(name).is_absolute():
        raise Unnameable("its name leads out of the folder")
    return job.destination / f"{name}.json"


def write(job: Job, item: Item, result: Mapping[str, Any], still_wanted: Callable[[], bool]) -> bool:
    """Put one result in its place, on the disk; whoever did so before is replaced. False: it is no longer wanted.

    Raises Unwritable or Unnameable, leaving nothing.
    """
    target = place(job, item.name)
    draft = _drafts(job) / f"{item.number}.{item.attempt}"
    try:
        with _said_plainly(job):
            with _open(draft) as file:
                file.write(line({**result, "original_filename": item.name}))
            if not still_wanted():
                return False
            with _named(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                draft.replace(target)
            _sync(target.parent)
        return True
    finally:
        with suppress(OSError):
            draft.unlink()


def assemble(job: Job, settled: Iterable[Outcome]) -> int:
    """Write results.jsonl and errors.jsonl whole, in the order of the items; returns how many results were gone.

    Raises Unwritable.
    """
    gone = 0
    results, errors = (_drafts(job) / name for name in ("results.jsonl", "errors.jsonl"))
    with _said_plainly(job):
        with _open(results) as read, _open(errors) as failed:
            for outcome in settled:
                if outcome.state is ItemState.FAILED:
                    failed.write(error_line(outcome))
                elif (result := result_line(job, outcome)) is None:
                    gone += 1
                else:
                    read.write(result)
        for draft in (results, errors):
            draft.replace(job.destination / draft.name)
        _sync(job.destination)
        clear(job)
    return gone


def clear(job: Job) -> None:
    """Remove the drafts that a crash has left."""
    shutil.rmtree(_drafts(job), ignore_errors=True)


def takes_results(job: Job) -> None:
    """Raises Unwritable unless the destination takes a file of some size."""
    probe = _drafts(job) / "probe"
    with _said_plainly(job):
        try:
            with _open(probe) as file:
                file.write(bytes(PROBE_BYTES))
        finally:
            with suppress(OSError):
                probe.unlink()


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


def result_line(job: Job, outcome: Outcome) -> bytes | None:
    """The result of an item that is done, as one line; None when somebody took the file away."""
    try:
        return place(job, outcome.name).read_bytes()
    except FileNotFoundError:
        return None


def error_line(outcome: Outcome) -> bytes:
    return line({"original_filename": outcome.name, "error": outcome.error or ""})


def line(value: Mapping[str, Any]) -> bytes:
    """One line of JSON in UTF-8. Bytes of a file name that are not UTF-8 become escapes that lose nothing."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n"


@contextmanager
def _said_plainly(job: Job) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unwritable(f"{job.destination}: {error.strerror}; put that right, and it goes on by itself") from None


@contextmanager
def _named(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NAME_ERRORS:
            raise
        raise Unnameable(f"no result of the name {target.name!r} can be written: {error.strerror}") from None


@contextmanager
def _open(draft: Path) -> Iterator[BinaryIO]:
    """A new file that is on the disk once it is closed."""
    draft.parent.mkdir(parents=True, exist_ok=True)
    with draft.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make a rename in the folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _drafts(job: Job) -> Path:
    return job.destination / f".halve-job-{job.id}"
