"""How often somebody may ask."""

import time
from collections.abc import Callable

from orchestrator.door.serving import RateLimit


class Bucket:
    """A token bucket: full at first, `burst` deep, refilled with `per_second`."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._limit: RateLimit | None = None
        self._filled = 0.0
        self._at = 0.0

    def wait(self, limit: RateLimit | None) -> float:
        """0.0 for one who may ask now, which is taken note of; otherwise the seconds until somebody may."""
        if limit is None:
            return 0.0
        now = self._now()
        if limit != self._limit:
            self._limit, self._filled = limit, float(limit.burst)
        else:
            self._filled = min(limit.burst, self._filled + (now - self._at) * limit.per_second)
        self._at = now
        if self._filled >= 1.0:
            self._filled -= 1.0
            return 0.0
        return (1.0 - self._filled) / limit.per_second
