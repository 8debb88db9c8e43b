"""What the door counts, minute by minute, on a clock that the test turns."""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.door.loads import KEPT_MINUTES, Counts, Loads
from orchestrator.door.server import keep
from orchestrator.door.spool import SPOOL_SECONDS, Spool

START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)


class Hands:
    """A clock's."""

    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> float:
        return self.at.timestamp()


def requests(loads: Loads) -> list[tuple[str, int]]:
    return [(f"{minute.at:%H:%M}", minute.requests) for minute in loads.minutes]


@pytest.fixture
def clock() -> Hands:
    return Hands()


def test_a_minute_is_the_sum_of_its_seconds(clock: Hands) -> None:
    counts = Counts(clock)
    for second in range(130):
        clock.at = START + timedelta(seconds=second)
        tally = counts.roll()
        tally.ask()
        tally.ask()
        tally.read("a", 1)
        tally.latency(10 if second % 10 else 1000)
    assert requests(counts.loads(None)) == [("08:00", 120), ("08:01", 120), ("08:02", 20)]
    assert requests(counts.loads(START)) == [("08:01", 120), ("08:02", 20)]
    first = counts.loads(None).minutes[0]
    assert first.images_by_replica == {"a": 60} and first.images == 60
    assert first.latency_ms_sum == 54 * 10 + 6 * 1000
    assert first.latency_ms_p95 == pytest.approx(1000, rel=0.05)
    assert counts.loads(None).current.images_per_second == 2


def test_a_request_asks_for_one_image_and_once_answered_for_all_of_its(clock: Hands) -> None:
    counts = Counts(clock)
    counts.roll().ask()
    clock.at += timedelta(seconds=1)
    assert counts.loads(None).current.images_per_second == 0.1
    counts.roll().read("a", 20)
    clock.at += timedelta(seconds=1)
    assert counts.loads(None).current.images_per_second == 2


def test_quiet_minutes_are_rows_too_and_carry_what_is_still_in_flight(clock: Hands) -> None:
    counts = Counts(clock)
    counts.flying(+3)
    counts.flying(-1)
    clock.at += timedelta(minutes=3)
    seen = counts.loads(None).minutes
    assert [(minute.requests, minute.in_flight_max) for minute in seen] == [(0, 3), (0, 2), (0, 2), (0, 2)]
    assert seen[0].latency_ms_p95 is None
    assert counts.loads(None).current.images_per_second == 0


def test_48_hours_are_kept(clock: Hands) -> None:
    counts = Counts(clock)
    for jump in (timedelta(minutes=1), timedelta(days=40), timedelta(days=1)):
        counts.roll().requests += 1
        clock.at += jump
        minutes = counts.loads(None).minutes
        assert len(minutes) <= KEPT_MINUTES + 1
        assert all(later.at - earlier.at == timedelta(minutes=1) for earlier, later in pairwise(minutes))
    assert sum(minute.requests for minute in minutes) == 1
    assert minutes[-1].at == clock.at


def test_a_clock_set_back_loses_nothing_and_counts_nothing_twice(clock: Hands) -> None:
    counts = Counts(clock)
    counts.roll().requests += 1
    clock.at -= timedelta(hours=1)
    counts.roll().requests += 1
    clock.at += timedelta(hours=1, minutes=1)
    counts.roll().requests += 1
    assert requests(counts.loads(None)) == [("08:00", 2), ("08:01", 1)]


@pytest.mark.parametrize("milliseconds", [0.0, 0.5, 1.0, 3.7, 120.0, 45_000.0])
def test_a_percentile_is_near_the_truth(clock: Hands, milliseconds: float) -> None:
    counts = Counts(clock)
    counts.roll().latency(milliseconds)
    p95 = counts.loads(None).minutes[0].latency_ms_p95
    assert p95 == pytest.approx(milliseconds, rel=0.026) or (milliseconds < 1 and p95 is not None and p95 < 1.1)


def test_a_successor_goes_on_counting(clock: Hands, tmp_path: Path) -> None:
    before, path = Counts(clock), tmp_path / "counts.json"
    for _ in range(100):
        tally = before.roll()
        tally.ask()
        tally.read("a", 3)
        tally.latency(70)
        clock.at += timedelta(seconds=1)
    path.write_bytes(Spool(path, before, clock).content())
    before.roll().ask()  # and then it is killed
    clock.at += timedelta(seconds=3)
    after = Counts(clock)
    Spool(path, after, clock).restore()
    assert requests(after.loads(None)) == [("08:00", 60), ("08:01", 40)]
    assert after.totals.uncounted_seconds == 3
    after.roll().ask()
    clock.at += timedelta(seconds=60)
    after.roll().ask()
    assert requests(after.loads(None)) == [("08:00", 60), ("08:01", 41), ("08:02", 1)]
    first = after.loads(None).minutes[0]
    assert (first.images_by_replica, first.latency_ms_p95) == ({"a": 180}, pytest.approx(70, rel=0.03))
    # an orderly end forgets nothing; an earlier loss stays known; a long time later no more than a spool was lost
    path.write_bytes(Spool(path, after, clock).content(whole=True))
    clock.at += timedelta(hours=1)
    third = Counts(clock)
    Spool(path, third, clock).restore()
    assert third.totals.uncounted_seconds == 3
    assert sum(minute.requests for minute in third.loads(None).minutes) == 102
    path.write_bytes(Spool(path, third, clock).content())
    clock.at += timedelta(hours=1)
    fourth = Counts(clock)
    Spool(path, fourth, clock).restore()
    assert fourth.totals.uncounted_seconds == 3 + SPOOL_SECONDS


def test_the_last_word_is_said_after_the_one_under_way(clock: Hands, tmp_path: Path) -> None:
    """A disk that takes its time: a pipe that nobody reads from yet."""
    path = tmp_path / "counts.json"
    slow = path.with_name(f".{path.name}.{os.getpid()}")
    os.mkfifo(slow)

    async def run() -> None:
        keeping = asyncio.create_task(keep(Spool(path, Counts(clock), clock), path, 0.0))
        try:
            done, _ = await asyncio.wait((keeping,), timeout=0.2)
            keeping.cancel()
            done, _ = await asyncio.wait((keeping,), timeout=0.2)
            assert not done
        finally:
            reader = os.open(slow, os.O_RDONLY | os.O_NONBLOCK)
        await asyncio.wait((keeping,))
        os.close(reader)
        assert keeping.cancelled()

    asyncio.run(run())


@pytest.mark.parametrize("content", [b"", b"[]", b'{"at":1}', b"\xff\xfe", b'{"minutes":[[0,{"requests":"x"}]]}'])
def test_counts_that_are_none_stop_nobody(clock: Hands, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "counts.json"
    Spool(path, Counts(clock), clock).restore()  # there is no file yet
    path.write_bytes(content)
    counts = Counts(clock)
    Spool(path, counts, clock).restore()
    assert requests(counts.loads(None)) == [("08:00", 0)]
