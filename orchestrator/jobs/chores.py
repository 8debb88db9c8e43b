"""What of a job may take long, and is done beside the passes: its results assembled, its destination tried."""

import logging
import threading
from collections.abc import Callable, Iterable
from datetime import timedelta

from orchestrator.clock import Clock
from orchestrator.errors import Refused
from orchestrator.jobs import costs, results
from orchestrator.ledger import jobs
from orchestrator.ledger.jobs import Job, State
from orchestrator.ledger.store import Ledger, Stale

log = logging.getLogger("halve.jobs")

#: a job that paused itself looks this often whether it can go on
AGAIN = timedelta(seconds=10)


class Chores:
    """One thing at a time for a job, each in a thread. `running` gives the jobs that run: they share what it costs."""

    def __init__(self, ledger: Ledger, clock: Clock, running: Callable[[], Iterable[Job]]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._running = running
        self._threads: dict[int, threading.Thread] = {}  # by job

    def begin(self, job: Job, work: Callable[[Job], None]) -> None:
        """Have it done, unless something of that job is under way."""
        under_way = self._threads.get(job.id)
        if under_way is None or not under_way.is_alive():
            self._threads[job.id] = threading.Thread(target=_do, args=(job, work), name="job-chore", daemon=True)
            self._threads[job.id].start()

    def finish(self, job: Job) -> None:
        """Every item is settled: assemble the results, then say so."""
        with self._ledger.read() as tx:
            present = jobs.get(tx, job.id)
        if present is None or present.state is not State.RUNNING:
            return  # a pass that had looked before the last one finished it
        try:
            gone = results.assemble(job, results.settled(self._ledger, job.id))
        except results.Unwritable as error:
            with self._ledger.write() as tx:
                jobs.pause(tx, job.id, str(error), self._clock.now() + AGAIN)
            return
        reason = f"{gone} results had been taken away before results.jsonl was written" if gone else ""
        now = self._clock.now()
        ran = list(self._running())
        with self._ledger.write() as tx:
            costs.account(tx, jobs.get(tx, job.id) or job, ran, now)
            jobs.finish(tx, job.id, reason, now)
        log.info("job=%d done: %d read, %d failed", job.id, job.done, job.failed)

    def try_again(self, job: Job) -> None:
        """Go on with a job that paused itself, if its destination takes results."""
        try:
            results.takes_results(job)
        except results.Unwritable:
            with self._ledger.write() as tx:
                jobs.postpone(tx, job.id, self._clock.now() + AGAIN)
            return
        with self._ledger.write() as tx:
            jobs.resume(tx, job.id, by_itself=True)


def _do(job: Job, work: Callable[[Job], None]) -> None:
    try:
        work(job)
    except Stale:
        pass  # the pass will notice too
    except Refused as refusal:
        log.error("job=%d %s", job.id, refusal)
    except Exception:
        log.exception("job=%d", job.id)
