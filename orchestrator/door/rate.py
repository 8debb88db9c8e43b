"""How often somebody may ask."""

import time
from collections.abc import Callable

from orchestrator.door.serving import Rate


class Bucket:
    """A token bucket: full at first, `burst` deep, refilled with `per_second`."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._rate: Rate | None = None
        self._filled = 0.0
        self._at = 0.0

    def wait(self, rate: Rate | None) -> float:
        """0.0 for one who may ask now, which is taken note of; otherwise the seconds until somebody may."""
        if rate is None:
            return 0.0
        now = self._now()
        if rate != self._rate:
            self._rate, self._filled = rate, float(rate.burst)
        else:
            self._filled = min(rate.burst, self._filled + (now - self._at) * rate.per_second)
        self._at = now
        if self._filled >= 1.0:
            self._filled -= 1.0
            return 0.0
        return (1.0 - self._filled) / rate.per_second
