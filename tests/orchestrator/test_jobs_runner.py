"""Jobs over real HTTP: whatever is killed, every item ends with exactly one result or one error."""

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.clock import SystemClock
from orchestrator.executors import Executor, Outcome, Task, Verdict
from orchestrator.executors.http import HttpExecutor
from orchestrator.jobs import JobRunner, results, submit
from orchestrator.jobs.lane import HOLD_MAX_SECONDS
from orchestrator.jobs.retry import FAILURES_MAX
from orchestrator.jobs.runner import PASS_SECONDS
from orchestrator.ledger import items, jobs
from orchestrator.ledger.jobs import Job, State
from orchestrator.ledger.store import Ledger
from tests.orchestrator.batch import (
    NOW,
    HurriedClock,
    begin,
    find,
    folder,
    generation,
    is_done,
    lines,
    numbered,
    opened,
    runner,
    until,
)
from tests.orchestrator.fake_engine import Replica, replica
from tests.orchestrator.tiny import fill

__all__ = ["replica"]


class Echo(Executor):
    """An executor without a network: reads text files, and can be told to hold still, or to do so at its n-th."""

    def __init__(self, hold_at: int | None = None) -> None:
        self.go = threading.Event()
        self.go.set()
        self.tasks: list[Task] = []
        self.verdict = Verdict.READ
        self.held = 0  # so many were ever told to
        self._hold_at = hold_at
        self._turn = threading.Lock()

    def read(self, task: Task) -> Outcome:
        with self._turn:
            self.tasks.append(task)
            if len(self.tasks) == self._hold_at:
                self.go.clear()
        content = task.place.read_bytes()
        with self._turn:
            held = not self.go.is_set()
            self.held += held
        if held:
            self.go.wait(120)
        return Outcome(verdict=self.verdict, reason="as told", result={"recognized_text": content.decode()})


def submitted(ledger: Ledger, tmp_path: Path, images: dict[str | bytes, bytes], out: str = "out") -> Job:
    return submit(ledger, None, folder(tmp_path / f"in-{out}", images), tmp_path / out, [], NOW)


def check_whole(job: Job, images: dict[str | bytes, bytes], failed: frozenset[str] = frozenset()) -> None:
    """Exactly one result or one error per image, in order, and nothing else in the destination."""
    names = sorted(os.fsdecode(name) for name in images)
    read = [name for name in names if name not in failed]
    result = lines(job.destination / "results.jsonl")
    assert [line["original_filename"] for line in result] == read
    assert [line["recognized_text"] for line in result] == [images[name].decode() for name in read]
    assert [line["original_filename"] for line in lines(job.destination / "errors.jsonl")] == sorted(failed)
    written = {str(path.relative_to(job.destination)) for path in job.destination.rglob("*") if path.is_file()}
    assert written == {f"{name}.json" for name in read} | {"results.jsonl", "errors.jsonl"}
    for line in result:
        assert json.loads((job.destination / f"{line['original_filename']}.json").read_bytes()) == line


def test_a_folder_is_read_through_the_door(
    tmp_path: Path, ledger: Ledger, replica: Replica, running: list[JobRunner]
) -> None:
    images = numbered(60) | {"sub/深/z.png": "中文".encode()}
    job = submitted(ledger, tmp_path, images)
    begin(running, runner(ledger, HttpExecutor(replica.start().url)))
    until(lambda: is_done(ledger, job))
    check_whole(job, images)
    assert len(replica.seen()) == len(images)
    assert not list(job.destination.glob(".halve*"))
    assert find(ledger, job.id).finished_at is not None


def test_a_killed_engine_loses_no_item_and_repeats_none(
    tmp_path: Path, ledger: Ledger, replica: Replica, running: list[JobRunner]
) -> None:
    images = numbered(150)
    job = submitted(ledger, tmp_path, images)
    begin(running, runner(ledger, HttpExecutor(replica.start().url)))
    for part in (30, 90):
        until(lambda part=part: len(replica.seen()) >= part)
        replica.kill()
        time.sleep(0.2)
        replica.start()
    until(lambda: is_done(ledger, job))
    check_whole(job, images)
    assert (find(ledger, job.id).done, find(ledger, job.id).failed) == (150, 0)


def test_a_poison_item_fails_alone_and_the_rest_is_read(
    tmp_path: Path, ledger: Ledger, replica: Replica, running: list[JobRunner]
) -> None:
    images = numbered(30) | {"00003.png": b"poison"}
    job = submitted(ledger, tmp_path, images)
    begin(running, runner(ledger, HttpExecutor(replica.start().url), clock=HurriedClock()))
    deaths = 0
    while not is_done(ledger, job):
        if replica.dead():
            replica.kill()
            replica.start()
            deaths += 1
        time.sleep(0.02)
        assert deaths <= FAILURES_MAX + 1
    check_whole(job, images, failed=frozenset({"00003.png"}))
    assert deaths == FAILURES_MAX + 1  # once among others, then alone
    (error,) = lines(job.destination / "errors.jsonl")
    assert f"{FAILURES_MAX} times, the last alone" in error["error"]


def test_a_suspect_is_read_with_nothing_beside_it(tmp_path: Path, ledger: Ledger, running: list[JobRunner]) -> None:
    suspects = {"first0.png", "first1.png", "first2.png"}

    class Crowd(Executor):
        """Notes who is being read at the same time as whom."""

        def __init__(self) -> None:
            self.now: list[str] = []
            self.beside: dict[str, set[str]] = {}
            self.lock = threading.Lock()

        def read(self, task: Task) -> Outcome:
            with self.lock:
                self.now.append(task.name)
                for one in self.now:
                    self.beside.setdefault(one, set()).update(self.now)
            time.sleep(0.7 if task.name in suspects else 0.02)  # longer than a pass: time enough to do it wrong
            with self.lock:
                self.now.remove(task.name)
            return Outcome(verdict=Verdict.READ, result={"recognized_text": ""})

    first = submitted(ledger, tmp_path, {f"first{number}.png": b"" for number in range(6)}, "first")
    second = submitted(ledger, tmp_path, {f"second{number}.png": b"" for number in range(150)}, "second")
    with ledger.write() as tx:
        tx.exec_driver_sql("UPDATE items SET state = 'suspect' WHERE job_id = ? AND number <= 3", (first.id,))
    crowd = Crowd()
    begin(running, runner(ledger, crowd, in_flight=3))
    until(lambda: is_done(ledger, second) and is_done(ledger, first))
    assert {name: crowd.beside[name] for name in suspects} == {name: {name} for name in suspects}
    assert any(len(beside) > 1 for beside in crowd.beside.values())


def test_a_refused_image_fails_at_once_with_the_reason(
    tmp_path: Path, ledger: Ledger, replica: Replica, running: list[JobRunner]
) -> None:
    images = numbered(10) | {"00004.png": b"corrupt", "00007.png": b"corrupt"}
    job = submitted(ledger, tmp_path, images)
    begin(running, runner(ledger, HttpExecutor(replica.start().url)))
    until(lambda: is_done(ledger, job))
    check_whole(job, images, failed=frozenset({"00004.png", "00007.png"}))
    assert [line["error"] for line in lines(job.destination / "errors.jsonl")] == ["400 damaged PNG image"] * 2
    assert Counter(asked["name"] for asked in replica.seen()) == dict.fromkeys(map(str, images), 1)


def test_an_image_that_the_engine_stumbles_on_is_tried_five_times(
    tmp_path: Path, ledger: Ledger, replica: Replica, running: list[JobRunner]
) -> None:
    images = numbered(3) | {"00001.png": b"broken"}
    job = submitted(ledger, tmp_path, images)
    begin(running, runner(ledger, HttpExecutor(replica.start().url), clock=HurriedClock()))
    until(lambda: is_done(ledger, job))
    check_whole(job, images, failed=frozenset({"00001.png"}))
    assert Counter(asked["name"] for asked in replica.seen())["00001.png"] == FAILURES_MAX


NAMES: dict[str | bytes, bytes] = {
    "a b  c.png": b"spaces",
    "new\nline.png": b"a newline",
    "quo\"te'\\.png": b"quotes",
    b"caf\xe9\xff.png": b"bytes",
    "发票/🧾.png": "中文".encode(),
    "sub/a..b...png": b"dots",
    "%2e%2e%2fa.png": b"an escape that nobody undoes",
    "-rf.png": b"a dash",
}


def test_every_name_ends_as_one_file_inside_the_destination(
    tmp_path: Path, ledger: Ledger, replica: Replica, running: list[JobRunner]
) -> None:
    job = submitted(ledger, tmp_path, NAMES)
    begin(running, runner(ledger, HttpExecutor(replica.start().url)))
    until(lambda: is_done(ledger, job))
    read = {os.fsdecode(name): content for name, content in NAMES.items()}
    result = {line["original_filename"]: line["recognized_text"] for line in lines(job.destination / "results.jsonl")}
    assert result == {name: content.decode() for name, content in read.items()}
    assert all((job.destination / f"{name}.json").is_file() for name in read)


def test_a_name_that_leads_out_is_never_written(tmp_path: Path, ledger: Ledger, running: list[JobRunner]) -> None:
    source = folder(tmp_path / "in", {"a.png": b"a"})
    names = [
        "../in/a.png",
        f"{source}/../in/a.png",
        "sub/../../in/a.png",
        "a.png",
    ]  # a list made by hand may have these
    with ledger.write() as tx:
        job_id = jobs.create(tx, "ocr", source, tmp_path / "out", (), names, NOW)
    begin(running, runner(ledger, Echo()))
    job = find(ledger, job_id)
    until(lambda: is_done(ledger, job))
    assert (find(ledger, job_id).done, find(ledger, job_id).failed) == (1, 3)
    assert sorted(path.name for path in source.iterdir()) == ["a.png"]


def test_a_name_too_long_for_its_result_fails_alone(tmp_path: Path, ledger: Ledger, running: list[JobRunner]) -> None:
    long = "x" * 250 + ".png"
    job = submitted(ledger, tmp_path, {long: b"a", "b.png": b"b"})
    begin(running, runner(ledger, Echo()))
    until(lambda: is_done(ledger, job))
    assert [line["original_filename"] for line in lines(job.destination / "errors.jsonl")] == [long]


def test_an_image_that_is_gone_fails_and_a_source_that_is_gone_pauses(
    tmp_path: Path, ledger: Ledger, running: list[JobRunner]
) -> None:
    job = submitted(ledger, tmp_path, numbered(3))
    (job.source / "00001.png").unlink()
    one = begin(running, runner(ledger, Echo(), clock=HurriedClock()))
    until(lambda: is_done(ledger, job))
    assert [line["error"] for line in lines(job.destination / "errors.jsonl")] == [
        "cannot be read: No such file or directory"
    ]
    one.stop(60.0)  # or it might be quicker than the one who takes the source away
    other = submitted(ledger, tmp_path, numbered(3), "other")
    other.source.rename(tmp_path / "unmounted")
    begin(running, runner(ledger, Echo(), clock=HurriedClock()))
    until(lambda: "gone or empty" in find(ledger, other.id).reason)
    (tmp_path / "unmounted").rename(other.source)
    until(lambda: is_done(ledger, other))
    assert find(ledger, other.id).failed == 0


def test_a_closed_door_burns_no_attempts(
    tmp_path: Path, ledger: Ledger, replica: Replica, running: list[JobRunner]
) -> None:
    images: dict[str | bytes, bytes] = {"a.png": b"busy", "b.png": b"busy"}
    job = submitted(ledger, tmp_path, images)
    one = begin(running, runner(ledger, HttpExecutor(replica.start().url)))
    until(lambda: "closed until tomorrow" in find(ledger, job.id).reason)
    lane = one._lanes["ocr"]
    lane._held_until += 86400  # as long as it was told: nobody here sees the end of that
    until(lambda: lane.busy == 0)
    folder(job.source, {"a.png": b"a", "b.png": b"b"})  # the door opens
    one.wake()
    until(lambda: is_done(ledger, job))  # a Retry-After of a day does not matter
    assert find(ledger, job.id).reason == ""
    with ledger.write() as tx:
        attempts = tx.exec_driver_sql("SELECT attempt, failures FROM items").all()
    assert attempts == [(1, 0), (1, 0)]


def test_a_retry_after_of_a_day_is_not_waited_for(
    tmp_path: Path, ledger: Ledger, replica: Replica, running: list[JobRunner]
) -> None:
    job = submitted(ledger, tmp_path, {"a.png": b"busy"})
    executor, began = HttpExecutor(replica.start().url), time.monotonic()
    begin(running, runner(ledger, executor))
    until(lambda: replica.seen())
    folder(job.source, {"a.png": b"a"})
    until(lambda: is_done(ledger, job))
    # nor is it asked again at once
    assert 2 <= len(replica.seen()) <= 1 + (time.monotonic() - began) / HOLD_MAX_SECONDS


def test_without_a_serving_deployment_nothing_is_leased(
    tmp_path: Path, ledger: Ledger, running: list[JobRunner]
) -> None:
    job = submitted(ledger, tmp_path, numbered(3))
    one: list[Echo | None] = [None]
    begin(running, JobRunner(ledger, SystemClock(), lambda deployment: one[0]))
    until(lambda: "does not serve" in find(ledger, job.id).reason)
    with ledger.read() as tx:
        assert jobs.progress(tx, job, NOW).leased == 0
    one[0] = Echo()
    until(lambda: is_done(ledger, job))


def leased(ledger: Ledger, job: Job) -> int:
    with ledger.read() as tx:
        return jobs.progress(tx, find(ledger, job.id), NOW).leased


@pytest.mark.parametrize("what", ["pause", "cancel", "close"])
def test_within_a_second_nothing_new_is_sent(
    tmp_path: Path, ledger: Ledger, running: list[JobRunner], what: str
) -> None:
    echo = Echo(hold_at=20)
    job = submitted(ledger, tmp_path, numbered(200))
    one: list[Echo | None] = [echo]
    jobs_ = begin(running, JobRunner(ledger, SystemClock(), lambda deployment: one[0], lambda deployment: 2))
    until(lambda: echo.held >= 2)
    lane = jobs_._lanes["ocr"]
    assert lane.waiting > 0
    with ledger.write() as tx:
        if what == "pause":
            assert jobs.pause(tx, job.id, "lunch")
        elif what == "cancel":
            assert jobs.cancel(tx, job.id, NOW)
        else:
            one[0] = None
    assert PASS_SECONDS < 1.0
    until(lambda: lane.waiting == 0)  # seen by the next pass
    sent = len(echo.tasks)
    echo.go.set()
    until(lambda: lane.busy == 0)
    time.sleep(0.7)
    assert len(echo.tasks) == sent
    until(lambda: leased(ledger, job) == 0)
    if what == "cancel":
        until(lambda: not list(job.destination.glob(".halve*")))
        written = len(list(job.destination.glob("*.json")))
        assert sent - 4 <= written <= sent  # two were being read, and two written, when it was cancelled
        assert find(ledger, job.id).done <= written
        return
    # what was under way has counted
    until(lambda: len(list(job.destination.glob("*.json"))) == find(ledger, job.id).done == sent)
    one[0] = echo
    with ledger.write() as tx:
        jobs.resume(tx, job.id)
    until(lambda: is_done(ledger, job))
    assert len(echo.tasks) == 200


def test_a_full_destination_pauses_the_job_until_there_is_room(
    tmp_path: Path, ledger: Ledger, running: list[JobRunner], small_disk: Path
) -> None:
    images = {f"{number:03d}.png": bytes([65 + number % 26]) * 30_000 for number in range(60)}
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(3_500_000))
    job = submit(ledger, None, folder(tmp_path / "in", images), small_disk / "out", [], NOW)
    begin(running, runner(ledger, Echo(), clock=HurriedClock()))
    until(lambda: find(ledger, job.id).state is State.PAUSED)
    paused = find(ledger, job.id)
    assert "No space left on device" in paused.reason and str(job.destination) in paused.reason
    until(lambda: find(ledger, job.id).resumes_at != paused.resumes_at)  # it looked, and there was none
    assert find(ledger, job.id).failed == 0
    ballast.unlink()
    until(lambda: is_done(ledger, job))
    check_whole(job, images)


def test_a_ledger_without_room_loses_nothing_and_goes_on_when_there_is_some(
    tmp_path: Path, running: list[JobRunner], small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, echo, images = generation(opened(small_disk / "home")), Echo(), numbered(200)
    job = submitted(ledger, tmp_path, images)
    echo.go.clear()
    begin(running, runner(ledger, echo))
    until(lambda: len(echo.tasks) == 4)
    filler = fill(small_disk)
    echo.go.set()
    until(lambda: "full; nothing was lost: make room" in caplog.text)
    time.sleep(2.0)  # several passes
    before = find(ledger, job.id)
    assert (before.state, before.failed) == (State.RUNNING, 0)
    filler.unlink()
    until(lambda: is_done(ledger, job))
    check_whole(job, images)
    assert max(Counter(task.name for task in echo.tasks).values()) == 1  # what was read is not read again for it
    ledger.close()


def test_a_read_only_destination_pauses_the_job(tmp_path: Path, ledger: Ledger, running: list[JobRunner]) -> None:
    job = submitted(ledger, tmp_path, numbered(5))
    job.destination.rmdir()
    job.destination.write_text("in the way")  # as little can be written there as on a read-only disk, even by root
    begin(running, runner(ledger, Echo(), clock=HurriedClock()))
    until(lambda: find(ledger, job.id).state is State.PAUSED)
    assert str(job.destination) in find(ledger, job.id).reason
    job.destination.unlink()
    until(lambda: is_done(ledger, job))
    check_whole(job, numbered(5))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 5 MB. Skips where none may be mounted."""
    import subprocess

    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_service_that_bars_us_pauses_the_job_and_fails_nothing(
    tmp_path: Path, ledger: Ledger, replica: Replica, running: list[JobRunner]
) -> None:
    job = submitted(ledger, tmp_path, {"a.png": b"barred", "b.png": b"barred"})
    begin(running, runner(ledger, HttpExecutor(replica.start().url)))
    until(lambda: find(ledger, job.id).state is State.PAUSED)
    assert "401 no token" in find(ledger, job.id).reason
    assert find(ledger, job.id).failed == 0


def test_a_runner_that_lost_its_ledger_stops_quietly_and_writes_nothing_more(
    tmp_path: Path, ledger: Ledger, running: list[JobRunner]
) -> None:
    echo = Echo(hold_at=8)
    job = submitted(ledger, tmp_path, numbered(50))
    stale = begin(running, runner(ledger, echo))
    until(lambda: echo.held >= 4 and len(echo.tasks) == 4 + len(list(job.destination.glob("*.json"))))  # four are read
    fresh = generation(opened(tmp_path / "home"))
    with fresh.write() as tx:
        items.reclaim(tx, f"g{fresh.generation:010d}", NOW)  # another daemon took over what this one holds
    before = sorted(job.destination.glob("*.json"))
    echo.go.set()
    until(lambda: stale.stopped)
    time.sleep(0.2)
    assert sorted(job.destination.glob("*.json")) == before
    other = Echo()
    begin(running, runner(fresh, other))
    until(lambda: is_done(ledger, job))
    check_whole(job, numbered(50))


def test_stopping_gives_back_what_is_not_under_way(tmp_path: Path, ledger: Ledger, running: list[JobRunner]) -> None:
    echo = Echo(hold_at=10)
    job = submitted(ledger, tmp_path, numbered(200))
    one = begin(running, runner(ledger, echo, in_flight=3))
    until(lambda: len(echo.tasks) >= 10)
    threading.Timer(0.3, echo.go.set).start()
    one.stop(60.0)
    sent = len(echo.tasks)
    assert find(ledger, job.id).done == sent < 200
    with ledger.read() as tx:
        assert jobs.progress(tx, job, NOW).leased == 0


def test_no_more_is_under_way_than_allowed(tmp_path: Path, ledger: Ledger, running: list[JobRunner]) -> None:
    echo = Echo()
    echo.go.clear()
    job = submitted(ledger, tmp_path, numbered(30))
    begin(running, runner(ledger, echo, in_flight=3))
    until(lambda: len(echo.tasks) >= 3)
    time.sleep(0.2)
    assert len(echo.tasks) == 3
    echo.go.set()
    until(lambda: is_done(ledger, job))


def test_jobs_of_one_deployment_go_in_turn_and_a_suspect_holds_nobody_up_for_good(
    tmp_path: Path, ledger: Ledger, running: list[JobRunner]
) -> None:
    echo = Echo()
    first = submitted(ledger, tmp_path, numbered(3), "first")
    second = submitted(ledger, tmp_path, numbered(300), "second")
    with ledger.write() as tx:
        tx.exec_driver_sql("UPDATE items SET state = 'suspect' WHERE job_id = ? AND number = 2", (first.id,))
    begin(running, runner(ledger, echo, in_flight=2))
    until(lambda: is_done(ledger, first) and is_done(ledger, second))
    ends = [find(ledger, job.id).finished_at for job in (first, second)]
    assert ends[0] is not None and ends[1] is not None and ends[0] < ends[1]
    assert len(echo.tasks) == 303


def test_results_that_were_taken_away_are_said_and_stop_nothing(
    tmp_path: Path, ledger: Ledger, running: list[JobRunner]
) -> None:
    echo = Echo(hold_at=5)
    job = submitted(ledger, tmp_path, numbered(10))
    one = begin(running, runner(ledger, echo, in_flight=1))
    until(lambda: (job.destination / "00000.png.json").exists())
    (job.destination / "00000.png.json").rename(tmp_path / "mine")
    until(lambda: echo.held)
    echo.go.set()
    until(lambda: is_done(ledger, job))
    one.stop(60.0)
    assert find(ledger, job.id).reason.startswith("1 results had been taken away")
    assert len(lines(job.destination / "results.jsonl")) == 9


def test_a_result_is_whole_or_absent(tmp_path: Path, ledger: Ledger) -> None:
    job = submitted(ledger, tmp_path, {"a.png": b""})
    with ledger.write() as tx:
        (item,) = items.lease(tx, job.id, "me", 1, NOW, NOW)
    seen: list[bool] = []

    def look() -> bool:
        seen.append((job.destination / "a.png.json").exists())
        return False

    assert not results.write(job, item, {"recognized_text": "x"}, look)
    assert seen == [False]
    assert not list(job.destination.rglob("a.png.json"))
