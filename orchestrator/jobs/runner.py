"""Runs the jobs of a ledger: leases items, has them read, writes each result once, settles, and finishes.

One thread speaks for the ledger; workers read images and write results. A result lies on the disk before it is
acknowledged: a crash in between has the item read again and the same file replaced, never two results and never none.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial

from orchestrator.clock import Clock
from orchestrator.errors import Refused
from orchestrator.executors import Executor, Outcome, Verdict
from orchestrator.jobs import costs, results
from orchestrator.jobs.attempt import attempt
from orchestrator.jobs.chores import AGAIN, Chores
from orchestrator.jobs.lane import Errand, Lane
from orchestrator.jobs.retry import next_step
from orchestrator.ledger import items, jobs
from orchestrator.ledger.jobs import ItemState, Job, State
from orchestrator.ledger.store import Ledger, Stale

log = logging.getLogger("halve.jobs")

#: between passes when nothing happens: how soon a pause, a cancel or a new job is seen
PASS_SECONDS = 0.5
#: what ends within this long is acknowledged together
GATHER_SECONDS = 0.05
LEASE = timedelta(seconds=120)
#: leased ahead, so that no worker waits for the ledger
AHEAD = 64
IN_FLIGHT = 4
#: however many replicas there are: each is a thread
IN_FLIGHT_MAX = 256
#: so long after its end a minute's images have been counted
COUNTED = timedelta(seconds=5)
#: a lane that takes nothing for this long is worth a word in `halve job show`
SAY_AFTER_SECONDS = 2.0


class JobRunner:
    """Made by the daemon once it holds its lease: items of an older generation are taken over at once.

    `executor_for(deployment)` is asked in every pass and answers the same object until its address changes, or None
    when nothing serves; `in_flight(deployment)` is how many items may be under way there.
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        executor_for: Callable[[str], Executor | None],
        in_flight: Callable[[str], int] = lambda deployment: IN_FLIGHT,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._executor_for = executor_for
        self._in_flight = in_flight
        self._generation = f"g{ledger.generation or 0:010d}"
        self.owner = f"{self._generation}.{secrets.token_hex(4)}"
        self._lanes: dict[str, Lane] = {}
        self._mine: dict[tuple[int, int], Errand] = {}  # leased, and not settled yet
        self._ended: list[tuple[Errand, Outcome]] = []  # by workers; settled in the next pass
        self._open: dict[int, Job] = {}  # as the last pass saw them
        self._over: dict[int, Job] = {}  # done or cancelled, their last drafts still to be removed
        self._chores = Chores(ledger, clock, self._running)
        self._renew_at = clock.now()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Run in a thread of its own until stopped, or until another daemon took over."""
        self._thread = threading.Thread(target=self._forever, name="jobs", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look now: a deployment has opened, say."""
        for lane in list(self._lanes.values()):
            lane.go()
        self._wake.set()

    def stop(self, timeout: float) -> None:
        """Take nothing more, wait up to `timeout` seconds for what is under way, and give back the rest."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout)
        until = time.monotonic() + timeout
        for lane in self._lanes.values():
            lane.close()
        for lane in self._lanes.values():
            lane.wait_idle(until - time.monotonic())
        with suppress(Stale, Refused):
            self._settle()
            self._give_back(list(self._mine.values()))

    @property
    def stopped(self) -> bool:
        """Whether it was started and runs no more: stopped, or another daemon took over."""
        return self._thread is not None and not self._thread.is_alive()

    def run_once(self) -> None:
        """One pass: settle what has ended, see what is wanted, lease, finish. Raises Stale or Refused (no room)."""
        self._settle()
        self._keep()
        now = self._clock.now()
        before = self._open
        self._look()
        if self._account(before, now):
            self._look()
        running = [job for job in self._open.values() if job.state is State.RUNNING and job.left]
        self._match_lanes(running)
        for name, lane in self._lanes.items():
            self._lease(lane, [job for job in running if job.deployment == name])
        self._say_why(running)
        for job in self._open.values():
            if job.state is State.RUNNING and not job.left:
                self._chores.begin(job, self._chores.finish)
            elif job.state is State.PAUSED and job.resumes_at is not None and job.resumes_at <= now:
                self._chores.begin(job, self._chores.try_again)
        self._over |= {job_id: before[job_id] for job_id in before.keys() - self._open.keys()}
        for job_id in self._over.keys() - {job_id for job_id, _ in self._mine}:
            results.clear(self._over.pop(job_id))

    def _running(self) -> list[Job]:
        """As the last pass saw them."""
        return [job for job in list(self._open.values()) if job.state is State.RUNNING]

    def _look(self) -> None:
        with self._ledger.read() as tx:
            self._open = {job.id: job for job in jobs.known(tx, still_open=True)}

    def _account(self, before: Mapping[int, Job], now: datetime) -> bool:
        """Charge each running job for the minutes that are over, and one that runs no more up to now.

        Returns whether a job stopped because its budget is spent.
        """
        minute = (now - COUNTED).replace(second=0, microsecond=0)
        ran = [job for job in before.values() if job.state is State.RUNNING]
        due = {job.id: now for job in ran if job.id not in self._open or self._open[job.id].state is State.PAUSED}
        for job in self._open.values():
            if job.state is State.RUNNING and (job.costed_at is None or job.costed_at < minute):
                due[job.id] = now if job.costed_at is None else minute
        if not due:
            return False
        stopped = []
        with self._ledger.write() as tx:
            for job_id, until in due.items():
                present = jobs.get(tx, job_id)
                if present is None or present.state is State.DONE:
                    continue
                costs.account(tx, present, ran, until)
                charged = jobs.get(tx, job_id)
                if charged is not None and charged.state is State.RUNNING and costs.stop_spent(tx, charged):
                    stopped.append(job_id)
        for job_id in stopped:
            log.warning("job=%d paused: its budget is spent", job_id)
        return bool(stopped)

    def _forever(self) -> None:
        while not self._stopping.is_set():
            try:
                self.run_once()
            except Stale as stale:
                log.warning("another daemon took over (%s): jobs are its own now", stale)
                for lane in self._lanes.values():
                    lane.close()
                return
            except Refused as refusal:
                log.error("%s", refusal)
            except Exception:
                log.exception("a pass over the jobs failed; the next one starts from the ledger")
            if self._wake.wait(PASS_SECONDS):
                self._stopping.wait(GATHER_SECONDS)
            self._wake.clear()

    def _settle(self) -> None:
        """Acknowledge what workers have ended, in one transaction. What does not reach the ledger is tried again."""
        batch = self._ended[:]
        if not batch:
            return
        now = self._clock.now()
        barred = {errand.job.id: outcome.reason for errand, outcome in batch if outcome.verdict is Verdict.BARRED}
        steps = [next_step(errand.item, outcome, now) for errand, outcome in batch]
        with self._ledger.write() as tx:
            counted = items.settle(tx, self.owner, steps, now)
            paused = [job_id for job_id in barred if jobs.pause(tx, job_id, barred[job_id], now + AGAIN)]
        del self._ended[: len(batch)]
        for step in steps:
            self._mine.pop(step.item.key, None)
        for job_id in paused:
            log.warning("job=%d paused: %s", job_id, barred[job_id])
        for step in counted:
            if step.state is ItemState.FAILED:
                log.warning("job=%d item=%d failed: %s", step.item.job_id, step.item.number, step.error)

    def _keep(self) -> None:
        """Hold on to what is ours, and take over what nobody holds any more."""
        now = self._clock.now()
        if now < self._renew_at:
            return
        with self._ledger.write() as tx:
            items.renew(tx, self.owner, (errand.item for errand in self._mine.values()), now + LEASE)
            freed = items.reclaim(tx, self._generation, now)
        self._renew_at = now + LEASE / 4
        if freed:
            log.info("%d items of owners that are gone wait again", freed)

    def _match_lanes(self, running: Iterable[Job]) -> None:
        """A lane for every deployment with work, open where somebody reads; what is no longer wanted goes back."""
        wanted = {job.id for job in running}
        names = {job.deployment for job in running}
        for name in names - self._lanes.keys():
            self._lanes[name] = Lane(self._work)
        unwanted: list[Errand] = []
        for name, lane in list(self._lanes.items()):
            executor = self._executor_for(name) if name in names else None
            lane.open(executor, max(1, min(IN_FLIGHT_MAX, self._in_flight(name))))
            unwanted += lane.withdraw(keep=wanted if executor is not None else set())
            if name not in names and not lane.busy:
                lane.close()
                del self._lanes[name]
        self._give_back(unwanted)

    def _give_back(self, errands: list[Errand]) -> None:
        if not errands:
            return
        with self._ledger.write() as tx:
            items.settle(tx, self.owner, items.given_back(errand.item for errand in errands), self._clock.now())
        for errand in errands:
            self._mine.pop(errand.item.key, None)

    def _lease(self, lane: Lane, running: Iterable[Job]) -> None:
        """Keep a lane supplied from its jobs, oldest first.

        A suspect goes out when nothing else of the lane is under way, and nothing goes out beside it: if it is lost
        then, it was not for its neighbour's sake.
        """
        out = {errand.item.suspect for errand in self._mine.values() if self._lanes.get(errand.job.deployment) is lane}
        if not lane.is_open or True in out:
            return
        ahead = max(AHEAD, 2 * lane.bound)
        for job in running:
            if lane.waiting > ahead // 2:
                return
            with self._ledger.read() as tx:
                ready = items.leasable(tx, job.id, self._clock.now())
            if ItemState.WAITING in ready:
                self._take(job, lane, ahead - lane.waiting)
                out.add(False)
            elif ItemState.SUSPECT in ready:
                if not out:
                    self._take(job, lane, 1, suspects=True)
                return

    def _take(self, job: Job, lane: Lane, limit: int, *, suspects: bool = False) -> None:
        now = self._clock.now()
        with self._ledger.write() as tx:
            leased = items.lease(tx, job.id, self.owner, limit, now, now + LEASE, suspects=suspects)
        errands = [Errand(job=job, item=item) for item in leased]
        self._mine |= {errand.item.key: errand for errand in errands}
        lane.put(errands)

    def _say_why(self, running: Iterable[Job]) -> None:
        said = {job.id: self._lanes[job.deployment].why_still(SAY_AFTER_SECONDS) for job in running}
        news = {job.id: said[job.id] for job in running if said[job.id] != job.reason}
        if news:
            with self._ledger.write() as tx:
                for job_id, reason in news.items():
                    jobs.say(tx, job_id, reason)

    def _work(self, lane: Lane) -> None:
        """A worker: one errand after the other, until the lane closes."""
        while (taken := lane.take()) is not None:
            executor, errand = taken
            outcome = attempt(executor, errand, partial(lane.answered, errand), partial(self._holds, errand.item))
            if outcome.verdict is Verdict.UNAVAILABLE:
                lane.put_back(errand, outcome.reason, outcome.retry_after_seconds)
                continue
            self._ended.append((errand, outcome))
            lane.ended(errand)
            self._wake.set()

    def _holds(self, item: items.Item) -> bool:
        with self._ledger.read() as tx:
            return bool(items.held(tx, self.owner, [item]))
