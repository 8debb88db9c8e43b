"""One attempt at an item: its image is read, and its result written."""

import logging
from collections.abc import Callable
from pathlib import PurePosixPath

from orchestrator.errors import Refused
from orchestrator.executors import Executor, Outcome, Task, Verdict
from orchestrator.jobs import results, sources
from orchestrator.jobs.lane import Errand
from orchestrator.ledger.jobs import Job

#: what these say of an image holds only for the bytes that were read
ABOUT_CONTENT = frozenset({Verdict.READ, Verdict.REFUSED, Verdict.FAULT})

log = logging.getLogger("halve.jobs")


def attempt(
    executor: Executor, errand: Errand, answered: Callable[[], None], still_ours: Callable[[], bool]
) -> Outcome:
    """What came of it. Never raises.

    `answered` is called as soon as the image is read and only our side is left to do; the result is written if the item
    is `still_ours` then: otherwise it is somebody else's to write, and the ledger would not count this one.
    """
    job, item = errand.job, errand.item
    try:
        sources.kept_as(item.name)
        if item.suspect and not executor.answers():
            # what is lost alone counts against the item: so not while nothing would come through anyhow
            return Outcome(verdict=Verdict.UNAVAILABLE, reason="nobody answers")
        place = sources.location(job, item.name)
        seen = sources.version(place)
        outcome = executor.read(Task(place=place, name=PurePosixPath(item.name).name, fields=job.fields))
        if outcome.verdict is Verdict.READ and not item.suspect:
            answered()
        if outcome.verdict in ABOUT_CONTENT and sources.version(place) != seen:
            return Outcome(verdict=Verdict.FAULT, reason="the file changed while it was read")
        if outcome.verdict is Verdict.READ:
            results.write(job, item, outcome.result, still_ours)
        return outcome
    except sources.Unnameable as error:
        return Outcome(verdict=Verdict.REFUSED, reason=str(error))
    except results.Unwritable as error:
        return Outcome(verdict=Verdict.BARRED, reason=str(error))
    except OSError as error:
        return _unreadable(job, error)
    except Refused as refusal:
        return Outcome(verdict=Verdict.UNAVAILABLE, reason=str(refusal))
    except Exception as error:
        log.exception("job=%d item=%d", job.id, item.number)
        return Outcome(verdict=Verdict.FAULT, reason=f"{type(error).__name__}: {error}")


def _unreadable(job: Job, error: OSError) -> Outcome:
    """An image that cannot be read is its own affair, unless the whole source is gone: unmounted, or cut off."""
    gone = sources.why_gone(job.source, error)
    if gone is not None:
        return Outcome(verdict=Verdict.BARRED, reason=f"source {gone}; bring it back, and it goes on by itself")
    return Outcome(verdict=Verdict.REFUSED, reason=f"cannot be read: {error.strerror}")
