"""Run forever: hold the lease, tick, sleep until something is due. A restart is just the next tick."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, timedelta
from functools import partial
from pathlib import Path
from types import FrameType

from apscheduler.schedulers.background import BackgroundScheduler

from orchestrator import heap
from orchestrator.alarms import Alarms
from orchestrator.backups import Backups
from orchestrator.clock import SystemClock
from orchestrator.deployment import Running, close_door, open_running
from orchestrator.doorway import HttpDoor
from orchestrator.errors import Refused
from orchestrator.executors import Executor
from orchestrator.holder import identity, is_dead
from orchestrator.jobs.runner import JobRunner
from orchestrator.ledger import deployments, fleet, leases
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.store import Ledger, Stale
from orchestrator.scheduler import tick
from policies import windows

log = logging.getLogger("halve.daemon")

LEASE = timedelta(seconds=15)
RENEW_SECONDS = 4.0
#: between ticks; a window's edge or a signal wakes it sooner
TICK_SECONDS = 1.0
#: for items under way when the daemon leaves; those that take longer are read again by the next one
JOBS_SECONDS = 10.0


class Daemon:
    """One process that may act on this ledger. `open_one` wires a deployment to the outside."""

    def __init__(
        self,
        home: Path,
        ledger: Ledger,
        clock: SystemClock,
        open_one: Callable[[Path, SystemClock, Ledger, Deployment], Running] = open_running,
        timed: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._home = home
        self._ledger = ledger
        self._clock = clock
        self._open_one = open_one
        self._timed = timed  # around each round of ticks: what measures it
        self._running: dict[str, Running] = {}
        self._stopping = threading.Event()
        # a signal handler may do no more than this: whatever takes a lock may be interrupted while it holds it
        self._signalled = False
        self._said: dict[str, str] = {}  # the last error of each deployment
        self._unwritten: str | None = None  # of a tick that could not even note that it failed: the next one does
        self._forgotten: dict[str, Deployment] = {}  # down, and their doors closed
        self._looked: set[str] = set()  # deployments whose providers were asked once, wanted or not
        self._had_one = False
        self._jobs: JobRunner | None = None
        self._backups = Backups(home)
        self._alarms = Alarms(home, ledger)

    def run(self, *, wait: bool = True) -> None:
        """Hold the lease and tick until stopped by a signal or left by the last deployment.

        Raises Refused when another daemon holds the lease and `wait` is False.
        """
        heap.settle()
        with self._signals():
            if not self._take_lease(wait):
                return
            alarm = alarm_clock()
            alarm.add_job(self._clock.wake, "interval", seconds=TICK_SECONDS)
            alarm.add_job(heap.give_back, "interval", seconds=heap.EVERY_SECONDS)
            alarm.start()
            renewal = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)
            renewal.start()
            self._jobs = JobRunner(self._ledger, self._clock, self._executor, self._room)
            self._jobs.start()
            try:
                notify_systemd("READY=1\nSTATUS=acting")
                while not self._leaving() and not self._round(alarm):
                    self._clock.sleep(60.0)
            except Stale as stale:
                log.warning("another daemon took over (%s): leaving the field", stale)
            finally:
                notify_systemd("STOPPING=1")
                self._stopping.set()
                alarm.shutdown(wait=False)
                self._backups.stop()
                self._alarms.stop()
                self._jobs.stop(JOBS_SECONDS)
                renewal.join()
                for running in self._running.values():
                    running.close()
                self._give_up_lease()

    def stop(self) -> None:
        """Finish the tick, then leave. Replicas and doors go on."""
        self._stopping.set()
        self._clock.wake()

    def _leaving(self) -> bool:
        return self._signalled or self._stopping.is_set()

    def _round(self, alarm: BackgroundScheduler) -> bool:
        """One tick of every deployment. True when the last one has gone. Raises Stale, and nothing else."""
        try:
            with self._timed():
                return self._ticked(alarm)
        except Stale:
            raise
        except Refused as refusal:
            self._unwritten = str(refusal)
            log.error("%s", refusal)
        except Exception as error:
            self._unwritten = in_a_line(error)
            log.exception("nothing could be done; it is tried again")
        return False

    def _ticked(self, alarm: BackgroundScheduler) -> bool:
        started_at = self._clock.now()
        with self._ledger.read() as tx:
            rows = deployments.known(tx)
            costing = fleet.costing(tx)
        errors = [self._unwritten, self._backups.keep(started_at), self._alarms.look(started_at)]
        for row in rows:
            if row.wanted == "up" or row.name in costing:
                self._had_one = True
                self._looked.add(row.name)
                errors.append(self._guarded(row, partial(self._tick, alarm)))
            elif row.name not in self._looked:
                self._looked.add(row.name)
                errors.append(self._guarded(row, self._look))
            elif self._forgotten.get(row.name) != row:
                errors.append(self._guarded(row, self._forget))
            if self._leaving():
                break
        with self._ledger.write() as tx:
            leases.ticked(tx, started_at, "; ".join(filter(None, errors)) or None)
        self._unwritten = None
        left = any(row.wanted == "up" or self._forgotten.get(row.name) != row for row in rows)
        return self._had_one and not left

    def _look(self, row: Deployment) -> None:
        """One tick of a deployment that should have nothing: a ledger that was put back may not know what it has."""
        tick(self._opened(row).world)

    def _tick(self, alarm: BackgroundScheduler, row: Deployment) -> None:
        """One deployment's tick, and its next edge as an alarm. It goes on without its door, and then says so."""
        running = self._opened(row)
        doorless = None
        try:
            running.ensure_door()
        except Refused as refusal:
            doorless = refusal
        plan = tick(running.world)
        if plan.actions and self._jobs is not None:
            self._jobs.wake()
        now = self._clock.now()
        edge = windows.next_edge(running.world.policy(now).schedule, now)
        if edge is not None:
            alarm.add_job(self._clock.wake, "date", run_date=edge, id=row.name, replace_existing=True)
        if doorless is not None:
            raise doorless

    def _guarded(self, row: Deployment, do: Callable[[Deployment], None]) -> str | None:
        """Do something for one deployment. An error is logged and returned in a line; the others go on."""
        try:
            do(row)
        except Stale:
            raise
        except Refused as refusal:
            words = f"{row.name}: {refusal}"
            if self._said.get(row.name) != words:  # what lasts is logged once, not every second on a full disk
                log.error("deployment=%s %s", row.name, refusal)
        except Exception as error:
            words = f"{row.name}: {in_a_line(error)}"
            if self._said.get(row.name) != words:
                log.exception("deployment=%s failed", row.name)
        else:
            self._said.pop(row.name, None)
            return None
        self._said[row.name] = words
        return words

    def _executor(self, deployment: str) -> Executor | None:
        running = self._running.get(deployment)
        return running.executor if running is not None else None

    def _room(self, deployment: str) -> int:
        running = self._running.get(deployment)
        return running.room() if running is not None else 1

    def _forget(self, row: Deployment) -> None:
        """A deployment that is down and costs nothing: its door closes, even if its spec no longer means anything."""
        running = self._running.pop(row.name, None)
        if running is not None:
            running.close()
        door = HttpDoor(self._home, row.name)
        try:
            self._had_one = self._had_one or door.is_open()
            close_door(door, self._ledger)
        finally:
            door.close()
        self._forgotten[row.name] = row

    def _opened(self, row: Deployment) -> Running:
        """The deployment as it is wanted now, wired to the outside."""
        running = self._running.get(row.name)
        if running is None or running.row != row:
            if running is not None:
                running.close()
            running = self._running[row.name] = self._open_one(self._home, self._clock, self._ledger, row)
        return running

    def _take_lease(self, wait: bool) -> bool:
        owner = identity()
        said = False
        while not self._leaving():
            with self._ledger.write() as tx:
                now = self._clock.now()
                held = leases.held(tx)
                if held is None or held.expires_at <= now or is_dead(held.owner):
                    self._generation = leases.take(tx, owner, os.getpid(), now + LEASE)
                    break
            who = f"daemon {held.owner} holds the lease of this ledger until {held.expires_at:%H:%M:%S} UTC"
            if not wait:
                raise Refused(f"{who}; stop it first, or leave out --no-wait to wait for it")
            if not said:
                log.warning("%s: waiting", who)
                notify_systemd(f"READY=1\nSTATUS=waiting: {who}")  # to stand by is to be up: systemd need not wait
                said = True
            self._clock.sleep(1.0)
        else:
            return False
        self._ledger.generation = self._generation
        log.info("lease taken: generation %d, pid %d", self._generation, os.getpid())
        return True

    def _keep_renewing(self) -> None:
        while not self._stopping.wait(RENEW_SECONDS):
            try:
                with self._ledger.write() as tx:
                    leases.renew(tx, self._clock.now() + LEASE)
            except Stale:
                self.stop()
                return
            except Refused as refusal:
                log.error("%s", refusal)
            except Exception:
                log.exception("the lease could not be renewed; it is tried again")

    def _give_up_lease(self) -> None:
        try:
            with self._ledger.write() as tx:
                leases.give_up(tx, self._clock.now())
        except (Stale, Refused):
            pass  # somebody else holds it, or it cannot be written: it expires by itself

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def leave(number: int, frame: FrameType | None) -> None:
            self._signalled = True  # the alarm wakes the loop within a second

        before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def alarm_clock() -> BackgroundScheduler:
    """It only wakes the loop: nothing of it is kept, its days are UTC's, and what is late still comes, once."""
    return BackgroundScheduler(timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True})


def in_a_line(error: Exception) -> str:
    """What went wrong, without what the traceback in the log says."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def notify_systemd(state: str) -> None:
    """Tell a `Type=notify` unit how far we are. Nothing happens outside systemd."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect("\0" + address[1:] if address.startswith("@") else address)
        channel.sendall(state.encode())
