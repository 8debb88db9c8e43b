"""Answers that take long, kept for a while: a page shows the last one at once, and the next is worked out beside it."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from orchestrator.clock import Clock
from orchestrator.errors import Refused

log = logging.getLogger("halve.dashboard")

Answer = TypeVar("Answer")
#: a page waits so long for an answer, then shows the one before, or that there is none yet
PATIENCE_SECONDS = 0.12
MOST = 64


@dataclass(frozen=True, slots=True)
class Known(Generic[Answer]):
    """An answer, and when it was asked for: it is as of then."""

    value: Answer
    at: datetime


class Kept(Generic[Answer]):
    """By key, the last answer of each, at most MOST; a question that is being answered is not asked twice.

    `work_out` is called in `worker`'s thread, one question after the other: what is slow is done once at a time.
    """

    def __init__(
        self, work_out: Callable[..., Answer], fresh: timedelta, clock: Clock, worker: ThreadPoolExecutor
    ) -> None:
        self._work_out = work_out
        self._fresh = fresh
        self._clock = clock
        self._worker = worker
        self._known: OrderedDict[Hashable, Known[Answer]] = OrderedDict()
        self._asked: dict[Hashable, Future[Known[Answer]]] = {}
        self._changed_at: datetime | None = None
        self._lock = threading.Lock()

    def get(
        self, *key: Hashable, patience_seconds: float = PATIENCE_SECONDS, fresh: timedelta | None = None
    ) -> Known[Answer] | None:
        """The answer for a key; None: it is still being worked out. `fresh` stands for its own where one is given.

        Raises Refused as `work_out` did.
        """
        fresh = self._fresh if fresh is None else fresh
        with self._lock:
            known = self._known.get(key)
            if known is not None and timedelta(0) <= self._clock.now() - known.at < fresh:
                return known
            asked = self._asked.pop(key, None)
            if asked is None or (asked.done() and asked.exception() is None):
                asked = self._worker.submit(self._answered, key)
            if not asked.done():
                self._asked[key] = asked
        wait([asked], patience_seconds)
        return asked.result() if asked.done() else known

    def forget(self) -> None:
        """Something was changed by hand: the next page asks anew."""
        with self._lock:
            self._known.clear()
            self._asked.clear()
            self._changed_at = self._clock.now()

    def _answered(self, key: tuple[Hashable, ...]) -> Known[Answer]:
        at = self._clock.now()
        try:
            found = Known(self._work_out(*key), at)
        except Refused:
            raise
        except Exception:
            log.exception("%s could not be worked out", key)
            raise
        with self._lock:
            if self._changed_at is not None and at <= self._changed_at:
                return found  # it began before the change: nobody is told again
            self._known[key] = found
            self._known.move_to_end(key)
            while len(self._known) > MOST:
                self._known.popitem(last=False)
        return found
