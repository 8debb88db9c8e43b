"""A log that nobody can fill: a door writes a line for each request that a replica spoils, and millions may come."""

import logging
import time
from collections.abc import Callable

LINES_PER_MINUTE = 60


class Sparing(logging.Filter):
    """Lets so many lines through in any minute by the clock; the next one says how many were left out before it."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._now = now
        self._minute = 0
        self._lines = 0

    def filter(self, record: logging.LogRecord) -> bool:
        minute = int(self._now() // 60)
        if minute != self._minute:
            left_out = self._lines - LINES_PER_MINUTE
            self._minute, self._lines = minute, 0
            if left_out > 0:
                record.msg, record.args = f"{record.getMessage()} ({left_out} lines before it were left out)", ()
        self._lines += 1
        return self._lines <= LINES_PER_MINUTE
