"""What a batch survives besides a killed engine and a full disk: machines that go, networks that hang, files that
change under it, and a daemon that dies at any point there is.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.clock import SystemClock
from orchestrator.door import Door, ServingSet
from orchestrator.door import Replica as Published
from orchestrator.errors import Refused
from orchestrator.executors import Executor, Outcome, Task, Verdict
from orchestrator.executors.http import HttpExecutor
from orchestrator.jobs import JobRunner, submit
from orchestrator.ledger import jobs
from orchestrator.ledger.jobs import Job, State
from orchestrator.ledger.store import Ledger, open_ledger
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
from tests.orchestrator.fake_engine import Replica


def check_all(job: Job, images: dict[str | bytes, bytes]) -> None:
    """One result per image, and no error."""
    found = {line["original_filename"]: line["recognized_text"] for line in lines(job.destination / "results.jsonl")}
    assert found == {os.fsdecode(name): content.decode() for name, content in images.items()}
    assert len(lines(job.destination / "results.jsonl")) == len(images)
    assert lines(job.destination / "errors.jsonl") == []


class Fleet:
    """Two replicas behind the real door."""

    def __init__(self, place: Path) -> None:
        self.door = Door(place / "home", "ocr")
        self.url = f"{self.door.ensure('127.0.0.1:0').url}/v1/ocr"
        self.engines = {}
        for name in ("ocr-1", "ocr-2"):
            (place / name).mkdir()
            self.engines[name] = Replica(place / name, 0.02).start()

    def idle(self, name: str) -> bool:
        """Nothing is under way there. For one that is published no more that is for good."""
        with suppress(Refused):
            return self.door.in_flight(name) == 0
        return False

    def publish(self, *names: str) -> None:
        serving = tuple(Published(id=one, url=f"http://127.0.0.1:{self.engines[one].port}") for one in names)
        self.door.publish(ServingSet(deployment="ocr", open=True, replicas=serving))

    def stop(self) -> None:
        self.door.stop()
        self.door.close()
        for engine in self.engines.values():
            engine.kill()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    (tmp_path / "home").mkdir(exist_ok=True)
    made = Fleet(tmp_path)
    yield made
    made.stop()


@pytest.mark.parametrize("notice", [True, False], ids=["with notice", "without notice"])
def test_a_machine_is_lost(
    tmp_path: Path, ledger: Ledger, running: list[JobRunner], fleet: Fleet, notice: bool
) -> None:
    images = numbered(200)
    fleet.publish("ocr-1", "ocr-2")
    job = submit(ledger, None, folder(tmp_path / "in", images), tmp_path / "out", [], NOW)
    begin(running, runner(ledger, HttpExecutor(fleet.url), in_flight=8))
    lost, left = fleet.engines["ocr-1"], fleet.engines["ocr-2"]
    until(lambda: len(lost.seen()) >= 20)
    if notice:  # withdrawn, and switched off when nothing is under way there any more
        fleet.publish("ocr-2")
        until(lambda: fleet.idle("ocr-1"))
        lost.kill()
    else:  # the daemon finds out by and by
        lost.freeze()
        until(lambda: not fleet.idle("ocr-1"))
        lost.kill()
        time.sleep(0.5)
        fleet.publish("ocr-2")
    until(lambda: is_done(ledger, job))
    check_all(job, images)
    sent = len(lost.seen()) + len(left.seen())
    assert sent == 200 if notice else 200 <= sent <= 216  # with notice nothing is read twice


class Relay:
    """A network on loopback that is cut once it shall: then bytes go nowhere, and nobody says so."""

    def __init__(self, port: int, cut: Callable[[], bool]) -> None:
        self._to = port
        self._cut = cut
        self._turn = threading.Lock()
        self._whole = threading.Event()
        self._whole.set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def whole(self) -> bool:
        return self._whole.is_set()

    def mend(self) -> None:
        with self._turn:
            self._cut = lambda: False
            self._whole.set()

    def close(self) -> None:
        self._server.close()
        self._whole.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                near.close()
                continue
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                with self._turn:
                    if self._cut():
                        self._whole.clear()
                self._whole.wait()
                sink.sendall(piece)
        except OSError:
            pass
        finally:
            for one in (source, sink):
                one.close()


def test_a_network_that_hangs_for_minutes_fails_nothing(
    tmp_path: Path, ledger: Ledger, running: list[JobRunner]
) -> None:
    """Answers are waited for in vain, one after the other: a tenth of a second here are two minutes in earnest. The
    last images are alone on their way, and lost like one that kills its replica; but nothing else gets through either.
    """
    images = numbered(12)
    engine = Replica(tmp_path, 0.005).start()
    relay = Relay(engine.port, lambda: len(engine.seen()) >= 10)
    try:
        job = submit(ledger, None, folder(tmp_path / "in", images), tmp_path / "out", [], NOW)
        executor = HttpExecutor(f"http://127.0.0.1:{relay.port}/v1/ocr", answer_seconds=0.1)
        begin(running, runner(ledger, executor, clock=HurriedClock()))
        until(lambda: not relay.whole)
        time.sleep(8.0)
        during = find(ledger, job.id)
        assert during.failed == 0 and during.state is State.RUNNING
        relay.mend()
        until(lambda: is_done(ledger, job))
        check_all(job, images)
    finally:
        relay.close()
        engine.kill()


def test_a_door_that_cannot_be_reached_for_minutes_fails_nothing(
    tmp_path: Path, ledger: Ledger, running: list[JobRunner]
) -> None:
    images = numbered(20)
    engine = Replica(tmp_path, 0.005)
    job = submit(ledger, None, folder(tmp_path / "in", images), tmp_path / "out", [], NOW)
    one = begin(running, runner(ledger, HttpExecutor(engine.url), clock=HurriedClock()))
    until(lambda: "no connection" in find(ledger, job.id).reason)
    time.sleep(3.0)
    assert find(ledger, job.id).failed == 0
    engine.start()
    one.wake()
    until(lambda: is_done(ledger, job))
    check_all(job, images)
    with ledger.read() as tx:
        assert {row[0] for row in tx.exec_driver_sql("SELECT failures FROM items")} == {0}
    engine.kill()


class Writer(Executor):
    """Reads a file in two halves; between them its writer goes on, as often as told."""

    def __init__(self, versions: list[bytes]) -> None:
        self.versions = versions
        self.reads = 0

    def read(self, task: Task) -> Outcome:
        self.reads += 1
        content = task.place.read_bytes()
        first = content[: len(content) // 2]
        if self.versions:
            task.place.write_bytes(self.versions.pop(0))
            content = task.place.read_bytes()
        text = first + content[len(first) :]
        if b"torn" in text:
            return Outcome(verdict=Verdict.REFUSED, reason="400 damaged PNG image")
        return Outcome(verdict=Verdict.READ, result={"recognized_text": text.decode()})


def test_a_file_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, ledger: Ledger, running: list[JobRunner]
) -> None:
    writer = Writer([b"CCCCCCCC", b"torn", b"the end"])
    job = submit(ledger, None, folder(tmp_path / "in", {"a.png": b"AAAAAAAA"}), tmp_path / "out", [], NOW)
    begin(running, runner(ledger, writer, clock=HurriedClock()))
    until(lambda: is_done(ledger, job))
    check_all(job, {"a.png": b"the end"})
    assert writer.reads == 4


def test_one_that_never_stops_changing_fails_and_says_so(
    tmp_path: Path, ledger: Ledger, running: list[JobRunner]
) -> None:
    writer = Writer([b"x" * number for number in range(1, 99)])
    job = submit(ledger, None, folder(tmp_path / "in", {"a.png": b""}), tmp_path / "out", [], NOW)
    begin(running, runner(ledger, writer, clock=HurriedClock()))
    until(lambda: is_done(ledger, job))
    (error,) = lines(job.destination / "errors.jsonl")
    assert "the file changed while it was read" in error["error"]


class Steady(Executor):
    """Reads text files at once."""

    def read(self, task: Task) -> Outcome:
        return Outcome(verdict=Verdict.READ, result={"recognized_text": task.place.read_text()})


def run_to_the_end(home: Path, doom: int | None) -> int:
    """Be a daemon that runs the jobs of a ledger, in a process of its own that ends at its `doom`-th step outside:
    opening, renaming, removing, or a statement to the ledger. Returns the exit status: 137 when it died of it.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        import sqlalchemy as sa

        ledger = generation(open_ledger(home))
        steps = 0

        def step(*_: object) -> None:
            nonlocal steps
            steps += 1
            if steps == doom:
                os._exit(137)

        def audit(event: str, _: object) -> None:
            if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
                step()

        sys.addaudithook(audit)
        sa.event.listen(ledger.engine, "before_cursor_execute", step)
        sa.event.listen(ledger.engine, "commit", step)
        one = JobRunner(ledger, SystemClock(), lambda deployment: Steady(), lambda deployment: 1)
        end = time.monotonic() + 120
        while time.monotonic() < end:
            one.run_once()
            with ledger.read() as tx:
                if not jobs.known(tx, still_open=True):
                    status = 0
                    break
            time.sleep(0.002)
    finally:
        os._exit(status)


@pytest.mark.slow
def test_a_daemon_that_dies_at_any_point_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    images = numbered(3)
    source = folder(tmp_path / "in", images)
    doom, died = 0, 137
    while died == 137:
        doom += 3 if doom > 60 else 1  # the first lease and result step by step, then two of three are left out
        place = tmp_path / str(doom)
        ledger = opened(place / "home")
        job = submit(ledger, None, source, place / "out", [], NOW)
        ledger.close()
        died = run_to_the_end(place / "home", doom)
        for path in (place / "out").glob("*.json"):  # what lies there in between is whole
            assert json.loads(path.read_bytes())["recognized_text"].encode() == images[path.name.removesuffix(".json")]
        if died == 137:
            assert run_to_the_end(place / "home", None) == 0, f"step {doom}"
        after = open_ledger(place / "home")
        assert find(after, job.id).state is State.DONE
        assert (find(after, job.id).done, find(after, job.id).failed) == (3, 0), f"step {doom}"
        check_all(job, images)
        assert not list(job.destination.glob(".halve*")), f"step {doom}"
        after.close()
    assert died == 0
    assert doom > 40, "that was not every point"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_thousand_items(tmp_path: Path, running: list[JobRunner]) -> None:
    count = 100_000
    home = tmp_path / "home"
    source = tmp_path / "in"
    source.mkdir()
    for number in range(count):
        (source / f"{number:06d}.png").touch()
    ledger = generation(opened(home))
    ledger.hurry()
    job = submit(ledger, None, source, tmp_path / "out", [], NOW)
    assert job.total == count
    begin(running, runner(ledger, Steady(), in_flight=8))
    until(lambda: is_done(ledger, job), 800)
    found = lines(job.destination / "results.jsonl")
    assert [line["original_filename"] for line in found] == [f"{number:06d}.png" for number in range(count)]
    assert find(ledger, job.id).done == count
