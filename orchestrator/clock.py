"""Time as an argument: the system's clock, and a virtual one for simulations and tests."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What time it is, and how to wait. `now` is aware and in UTC."""

    def now(self) -> datetime: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clock. `wake` ends a sleep early, from any thread or signal handler."""

    def __init__(self) -> None:
        self._woken = threading.Event()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        self._woken.wait(max(0.0, seconds))
        self._woken.clear()

    def wake(self) -> None:
        self._woken.set()


class VirtualClock:
    """A clock that moves only when told to, at once."""

    def __init__(self, start: datetime) -> None:
        if start.tzinfo is None:
            raise ValueError("a clock starts at an aware moment")
        self._now = start.astimezone(UTC)

    def now(self) -> datetime:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += timedelta(seconds=max(0.0, seconds))

    def jump(self, to: datetime) -> None:
        """Set the time, forwards or backwards, as a bad NTP server would."""
        self._now = to.astimezone(UTC)


class SetClock:
    """A daemon's clock that somebody sets: time passes as it does, but it is later or earlier."""

    def __init__(self, truth: VirtualClock) -> None:
        self._truth = truth
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return self._truth.now() + self.ahead

    def sleep(self, seconds: float) -> None:
        self._truth.sleep(seconds)

    def jump(self, to: datetime) -> None:
        """Time really passes until then."""
        self._truth.jump(to - self.ahead)

    def set(self, hours: float) -> None:
        """It is suddenly so much later, for whoever reads this clock."""
        self.ahead += timedelta(hours=hours)
