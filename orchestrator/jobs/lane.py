"""Where the workers of one deployment take items from: what is leased, what is under way, and when to hold still."""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from orchestrator.executors import Executor
from orchestrator.ledger.items import Item
from orchestrator.ledger.jobs import Job

#: when nobody takes items: the first pause, doubled up to the longest; a Retry-After is heeded within these bounds
HOLD_MIN_SECONDS = 0.1
HOLD_SECONDS = 0.5
HOLD_MAX_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """An item with the job it belongs to."""

    job: Job
    item: Item


class Lane:
    """A monitor between the runner, which puts errands in, and the workers, which take them out."""

    def __init__(self, work: Callable[["Lane"], None]) -> None:
        self._work = work
        self._changed = threading.Condition()
        self._waiting: deque[Errand] = deque()
        self._busy: set[tuple[int, int]] = set()  # in a worker's hands
        self._sent: set[tuple[int, int]] = set()  # those of them that no replica has answered yet
        self._workers = 0
        self._executor: Executor | None = None
        self._bound = 0
        self._closed = False
        self._held_until = 0.0  # on the monotonic clock
        self._held_since: float | None = None
        self._holds = 0
        self._reason = ""

    def open(self, executor: Executor | None, bound: int) -> None:
        """Who reads from now on, and how many at once at most. None: nobody, and nothing is taken."""
        with self._changed:
            self._executor, self._bound = executor, bound
            self._changed.notify_all()
            missing = bound - self._workers if executor is not None and not self._closed else 0
            self._workers += max(0, missing)
        for _ in range(missing):
            threading.Thread(target=self._work, args=(self,), name="job-item", daemon=True).start()

    def close(self) -> None:
        """Workers leave after what they are at."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def put(self, errands: Iterable[Errand]) -> None:
        with self._changed:
            self._waiting.extend(errands)
            self._changed.notify_all()

    def take(self) -> tuple[Executor, Errand] | None:
        """The next errand and who reads it. Blocks; None when the lane is closed and the worker shall leave."""
        with self._changed:
            while not self._closed:
                held = self._held_until - time.monotonic()
                room = self._executor is not None and len(self._sent) < self._bound
                if self._executor is not None and room and self._waiting and held <= 0:
                    errand = self._waiting.popleft()
                    self._busy.add(errand.item.key)
                    self._sent.add(errand.item.key)
                    return self._executor, errand
                self._changed.wait(held if held > 0 else None)
            self._workers -= 1
            return None

    def answered(self, errand: Errand) -> None:
        """A replica is done with the errand, and its worker not yet: the next one may go."""
        with self._changed:
            self._sent.discard(errand.item.key)
            self._changed.notify_all()

    def ended(self, errand: Errand) -> None:
        """The errand came to something: whoever reads is there."""
        with self._changed:
            self._busy.discard(errand.item.key)
            self._sent.discard(errand.item.key)
            self._held_until, self._held_since, self._holds, self._reason = 0.0, None, 0, ""
            self._changed.notify_all()

    def put_back(self, errand: Errand, reason: str, retry_after_seconds: float | None) -> None:
        """Nobody took it: it is next again, after a pause."""
        with self._changed:
            self._busy.discard(errand.item.key)
            self._sent.discard(errand.item.key)
            self._waiting.appendleft(errand)
            now = time.monotonic()
            self._held_since = self._held_since or now
            self._reason = reason
            if self._held_until <= now:  # of several that come back at once, one counts
                pause = HOLD_SECONDS * 2**self._holds if retry_after_seconds is None else retry_after_seconds
                self._held_until = now + max(HOLD_MIN_SECONDS, min(HOLD_MAX_SECONDS, pause))
                self._holds = min(self._holds + 1, 10)
            self._changed.notify_all()

    def go(self) -> None:
        """Try again now."""
        with self._changed:
            self._held_until = 0.0
            self._changed.notify_all()

    def withdraw(self, keep: Collection[int]) -> list[Errand]:
        """Take back what no worker has taken yet, but for the jobs to keep."""
        with self._changed:
            taken = [errand for errand in self._waiting if errand.job.id not in keep]
            self._waiting = deque(errand for errand in self._waiting if errand.job.id in keep)
            return taken

    def wait_idle(self, timeout: float) -> bool:
        """Wait until no worker is at anything."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, max(0.0, timeout))

    def why_still(self, seconds: float) -> str:
        """Why nothing moves, once that has lasted for so long; empty while things move."""
        with self._changed:
            if self._executor is None:
                return "the deployment does not serve now"
            lasts = self._held_since is not None and time.monotonic() - self._held_since >= seconds
            return self._reason if lasts else ""

    @property
    def is_open(self) -> bool:
        return self._executor is not None

    @property
    def bound(self) -> int:
        return self._bound

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def busy(self) -> int:
        return len(self._busy)
