"""How much was asked and how fast it was answered: per minute for 48 hours, and over the last ten seconds.

Only recognition is counted, and only while the door is open: other requests are no reason for a replica. `in_flight`
alone is of all requests, because a replica that leaves has to finish them.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter

from pydantic import AwareDatetime

KEPT_MINUTES = 48 * 60
CURRENT_SECONDS = 10
_STEP = math.log(1.05)  # latencies are counted in classes 5 % wide: memory stays constant, p95 is within 2.5 %


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """What one minute saw. `refused` was answered by the door itself, `failed` is what a replica spoilt."""

    at: AwareDatetime
    requests: int
    images: int
    failed: int
    refused: int
    latency_ms_sum: float
    latency_ms_p95: float | None
    queue_max: int
    in_flight_max: int
    images_by_replica: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """The last ten seconds. A request asks for one image when it comes, and for the rest of its images once its answer
    says how many they were; what failed or was refused has asked too."""

    images_per_second: float
    in_flight: int
    waiting: int
    p95_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loads:
    minutes: tuple[Minute, ...]
    current: Current


@dataclass(slots=True)
class Tally:
    """Counts over some stretch of time; adds up."""

    requests: int = 0
    images_asked: int = 0
    images_by_replica: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    refused: int = 0
    latency_ms_sum: float = 0.0
    queue_max: int = 0
    in_flight_max: int = 0
    classes: dict[int, int] = field(default_factory=dict)

    def latency(self, milliseconds: float, *, online: bool = True) -> None:
        """A batch's requests keep replicas busy too, but nobody was promised when they are answered: no p95 of them."""
        self.latency_ms_sum += milliseconds
        if not online:
            return
        index = int(math.log(milliseconds) / _STEP) if milliseconds > 1 else 0
        self.classes[index] = self.classes.get(index, 0) + 1

    def ask(self) -> None:
        self.requests += 1
        self.images_asked += 1

    def read(self, replica: str, images: int) -> None:
        self.images_by_replica[replica] = self.images_by_replica.get(replica, 0) + images
        self.images_asked += max(0, images - 1)  # one was counted when it came

    def add(self, other: "Tally") -> None:
        self.requests += other.requests
        self.images_asked += other.images_asked
        for replica, images in other.images_by_replica.items():
            self.images_by_replica[replica] = self.images_by_replica.get(replica, 0) + images
        self.failed += other.failed
        self.refused += other.refused
        self.latency_ms_sum += other.latency_ms_sum
        self.queue_max = max(self.queue_max, other.queue_max)
        self.in_flight_max = max(self.in_flight_max, other.in_flight_max)
        for index, count in other.classes.items():
            self.classes[index] = self.classes.get(index, 0) + count

    def latencies(self, bounds: Sequence[float]) -> tuple[dict[float, int], float]:
        """How many were at most so many seconds, by the bounds (the last is inf), and the sum of all; within 2.5 %."""
        counts, total = dict.fromkeys(bounds, 0), 0.0
        for index, count in self.classes.items():
            seconds = math.exp((index + 0.5) * _STEP) / 1000
            counts[next(bound for bound in bounds if seconds <= bound)] += count
            total += seconds * count
        return counts, total

    def p95_ms(self) -> float | None:
        """None when nothing was answered."""
        left = math.ceil(0.95 * sum(self.classes.values()))
        for index in sorted(self.classes):
            left -= self.classes[index]
            if left <= 0:
                return round(math.exp((index + 0.5) * _STEP), 3)
        return None


@dataclass(slots=True)
class Totals:
    """What the door saw since it opened, of all requests but those for itself. They only grow."""

    statuses: dict[int, int] = field(default_factory=dict)  # answers by HTTP status, whoever gave them
    gone: int = 0  # clients that did not wait for their answer
    again: int = 0  # times a request was sent to a replica once more, because the one before took or gave nothing
    held: int = 0  # times a request waited for a replica
    uncounted_seconds: float = 0.0  # before a door was killed, of which the minutes know nothing; its forerunners' too

    def answered(self, status: int) -> None:
        self.statuses[status] = self.statuses.get(status, 0) + 1


class Counts:
    """Counts requests as they happen. One tally is written to, that of the running second; minutes are its sums."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._second = int(now())
        self.tally = Tally()
        self._minute = Tally()
        self._seconds: deque[tuple[int, Tally]] = deque(maxlen=CURRENT_SECONDS)
        self._minutes: deque[tuple[int, Tally]] = deque(maxlen=KEPT_MINUTES)
        self.totals = Totals()
        self._closed = Tally()  # since the door opened, but for the running second
        self.in_flight = 0
        self.waiting = 0

    def roll(self) -> Tally:
        """The running second's tally. A clock set back is waited for: no second is opened twice."""
        second = int(self._now())
        if second > self._second:
            self._close(second)
        return self.tally

    def flying(self, change: int) -> None:
        self.in_flight += change
        if self.in_flight > self.tally.in_flight_max:
            self.tally.in_flight_max = self.in_flight

    def queued(self, change: int) -> None:
        self.waiting += change
        if self.waiting > self.tally.queue_max:
            self.tally.queue_max = self.waiting

    def loads(self, after: datetime | None) -> Loads:
        """The minutes that began after `after`, quiet ones and the running one included, and the last ten seconds."""
        minutes = self.minutes(KEPT_MINUTES + 1)
        since = after.timestamp() if after else 0.0
        recent = Tally()
        for second, tally in self._seconds:
            if second >= self._second - CURRENT_SECONDS:
                recent.add(tally)
        return Loads(
            minutes=tuple(_minute(start, tally) for start, tally in minutes if start > since),
            current=Current(
                images_per_second=recent.images_asked / CURRENT_SECONDS,
                in_flight=self.in_flight,
                waiting=self.waiting,
                p95_ms=recent.p95_ms(),
            ),
        )

    def ever(self) -> Tally:
        """Since the door opened, by no replica: there may have been any number."""
        self.roll()
        found = Tally()
        found.add(self._closed)
        found.add(self.tally)
        found.images_by_replica = {"": sum(found.images_by_replica.values())}
        return found

    def minutes(self, last: int) -> tuple[tuple[int, Tally], ...]:
        """The last so many minutes by their start (Unix time), the running one included."""
        self.roll()
        running = Tally()
        running.add(self._minute)
        running.add(self.tally)
        return (*list(self._minutes)[-last:], (self._second - self._second % 60, running))[-last:]

    def resume(self, minutes: Iterable[tuple[int, Tally]]) -> None:
        """Go on from what was counted before this began; those yet to come, or too old, are left out."""
        start = self._second - self._second % 60
        for at, tally in sorted(minutes, key=itemgetter(0)):
            if start - KEPT_MINUTES * 60 <= at < start:
                self._minutes.append((at, tally))
            elif at == start:
                self._minute.add(tally)

    def _close(self, second: int) -> None:
        self._closed.add(self.tally)
        self._closed.images_by_replica = {"": sum(self._closed.images_by_replica.values())}
        self._seconds.append((self._second, self.tally))
        self._minute.add(self.tally)
        start, running = self._second - self._second % 60, second - second % 60
        if running > start:
            self._minutes.append((start, self._minute))
            for quiet in range(max(start + 60, running - KEPT_MINUTES * 60), running, 60):
                self._minutes.append((quiet, self._fresh()))
            self._minute = self._fresh()
        self.tally = self._fresh()
        self._second = second

    def _fresh(self) -> Tally:
        return Tally(in_flight_max=self.in_flight, queue_max=self.waiting)


def _minute(start: int, tally: Tally) -> Minute:
    return Minute(
        at=datetime.fromtimestamp(start, UTC),
        requests=tally.requests,
        images=sum(tally.images_by_replica.values()),
        failed=tally.failed,
        refused=tally.refused,
        latency_ms_sum=round(tally.latency_ms_sum, 3),
        latency_ms_p95=tally.p95_ms(),
        queue_max=tally.queue_max,
        in_flight_max=tally.in_flight_max,
        images_by_replica=dict(tally.images_by_replica),
    )
