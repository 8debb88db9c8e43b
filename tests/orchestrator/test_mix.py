"""An hour of everything at once: requests and uploads while windows open and close, machines are taken back, and the
daemon is killed and restarted. No promised request is lost, and memory stays flat.

A request is promised when it was under way only while its deployment was open, by the schedule and the overrides that
the test itself has written: then its answer is a 200. Around a closed time the door may also say that it is closed,
with Retry-After. Whatever else is said, or not said, is lost.

Two deployments: `ocr` on a simulated market whose machines are tiny replicas that take a fifth of a second, killed when
the market takes their machine, and `read` on this machine with the real engine. `HALVE_MIX_SECONDS` is how long the
long one lasts.
"""

import io
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image, ImageDraw, ImageFont

from orchestrator.door import Door
from orchestrator.files import read_json
from orchestrator.ledger import deployments
from orchestrator.ledger.checks import check
from orchestrator.ledger.store import Ledger, open_ledger
from tests.orchestrator import embodied
from tests.orchestrator.market_http import Keeper
from tests.orchestrator.test_daemon_market import acts
from tests.orchestrator.tiny import living, until

SECONDS = float(os.environ.get("HALVE_MIX_SECONDS", "3600"))
SEED = 20261121
CALLERS = 3
#: of one caller, between an answer and its next request
PAUSE_SECONDS = 1.0
ENGINE_PAUSE_SECONDS = 40.0
#: a client has more patience than the door, whose deadline is 30 s
PATIENCE_SECONDS = 100.0
UPLOAD_BYTES_MAX = 2**20

#: a maximum far above what is wanted: the runaway bound on launches an hour goes by it, and more than a hundred are
#: needed here
OCR = """
name: ocr
model: ppocr
provider: simulated
simulated: {{price_per_hour: 1.80, spot_price_per_hour: 0.70, boot: 1s}}
engine: {{workers: {workers}}}
schedule: {{timezone: UTC, windows: {windows}, prewarm: 15s}}
replicas: {{min: 2, max: 60}}
spot: {{base_on_demand: 1}}
door: {{listen: "127.0.0.1:0"}}
"""
READ = """
name: read
model: ppocr
provider: local
local: {{price_per_hour: 1.80}}
engine: {{workers: 1, threads: 1}}
schedule: {{timezone: UTC, windows: {windows}, prewarm: 2m}}
door: {{listen: "127.0.0.1:0"}}
"""


@dataclass
class Hours:
    """When one deployment is closed, by all that the test has ordered."""

    closed: list[tuple[datetime, datetime]] = field(default_factory=list)

    def touched(self, start: datetime, end: datetime) -> bool:
        return any(begin <= end and start < reopened for begin, reopened in self.closed)


def daily(start: datetime, seconds: float, every_minutes: int, closed_minutes: int) -> tuple[list[str], Hours]:
    """Windows that close again and again from `every_minutes` after `start` on, for as long as the test may last."""
    minute = start.replace(second=0, microsecond=0) + timedelta(minutes=1)
    windows, hours, opens = [], Hours(), minute - timedelta(hours=1)
    while minute < start + timedelta(seconds=2 * seconds):
        minute += timedelta(minutes=every_minutes - closed_minutes)
        windows.append(f"Mon-Sun {opens:%H:%M}-{minute:%H:%M}")
        opens = minute + timedelta(minutes=closed_minutes)
        hours.closed.append((minute, opens))
        minute = opens
    windows.append(f"Mon-Sun {opens:%H:%M}-{opens + timedelta(hours=1):%H:%M}")
    return windows, hours


@dataclass
class Tally:
    """What came of the requests."""

    alone: threading.Lock = field(default_factory=threading.Lock)
    sent: int = 0
    sent_bytes: int = 0
    refused: int = 0  # closed, and rightly so
    latencies: dict[str, list[float]] = field(default_factory=lambda: {"ocr": [], "read": []})
    lost: list[str] = field(default_factory=list)

    def add(self, name: str, size: int, seconds: float, refused: bool, lost: str) -> None:
        with self.alone:
            self.sent += 1
            self.sent_bytes += size
            if lost:
                self.lost.append(lost)
            elif refused:
                self.refused += 1
            else:
                self.latencies[name].append(seconds)


class Caller:
    """One client of one deployment, with a connection of its own."""

    def __init__(self, name: str, url: str, hours: Hours, tally: Tally, seed: int) -> None:
        self._name, self._hours, self._tally = name, hours, tally
        self._drawn = random.Random(seed)
        self._http = httpx.Client(base_url=url, timeout=PATIENCE_SECONDS, trust_env=False)

    def call(self, over: threading.Event) -> None:
        pause = PAUSE_SECONDS if self._name == "ocr" else ENGINE_PAUSE_SECONDS
        while True:
            self._once()
            if over.wait(self._drawn.expovariate(1 / pause)):
                break
        self._http.close()

    def _once(self) -> None:
        request, size = self._request()
        begun, start = datetime.now(UTC), time.monotonic()
        try:
            answer = self._http.send(request)
            status, said = answer.status_code, answer.text
        except httpx.HTTPError as error:
            status, said, answer = 0, repr(error), None
        seconds, ended = time.monotonic() - start, datetime.now(UTC)
        refused = answer is not None and self._closed(answer) and self._hours.touched(begun, ended)
        sound = status == 200 and (request.method == "GET" or "recognized_text" in said)
        what = f"{begun:%H:%M:%S.%f} {self._name} {request.method} {request.url.path} {size} bytes"
        lost = "" if sound or refused else f"{what}: {status} after {seconds:.1f} s: {said[:200]}"
        if lost:
            print(f"LOST {lost}", flush=True)
        self._tally.add(self._name, size, seconds, refused, lost)

    def _request(self) -> tuple[httpx.Request, int]:
        if self._name == "read":
            image = drawn_image(f"TOTAL {self._drawn.randrange(1000)}")
            return self._http.build_request("POST", "/v1/ocr", files={"file": ("a.png", image)}), len(image)
        kind = self._drawn.random()
        if kind < 0.1:
            return self._http.build_request("GET", "/v1/models"), 0
        size = self._drawn.randint(2**18, UPLOAD_BYTES_MAX) if kind > 0.6 else int(2 ** self._drawn.uniform(10, 20))
        content = self._drawn.randbytes(size)
        if kind > 0.9:  # of unknown length, and in no hurry
            return self._http.build_request("POST", "/v2/models/ppocr/infer", content=dribbled(content)), size
        return self._http.build_request("POST", "/v1/ocr", files={"file": ("a.png", content)}), size

    @staticmethod
    def _closed(answer: httpx.Response) -> bool:
        if answer.status_code != 503 or answer.json()["error"] != "closed":
            return False
        return int(answer.headers["Retry-After"]) >= 1


def dribbled(content: bytes) -> Iterator[bytes]:
    """In four parts over a fifth of a second."""
    part = len(content) // 4 + 1
    for begin in range(0, len(content), part):
        time.sleep(0.05)
        yield content[begin : begin + part]


def drawn_image(text: str) -> bytes:
    image = Image.new("RGB", (320, 120), "white")
    ImageDraw.Draw(image).text((20, 40), text, "black", ImageFont.load_default(40))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


class Restarts:
    """The daemon, and its ends: every other one without a word. In the middle third of the time one lives for long."""

    def __init__(self, home: Path, ledger: Ledger, start: Callable[[], "subprocess.Popen[bytes]"], seconds: float):
        self._home, self._ledger, self._start, self._seconds = home, ledger, start, seconds
        self._drawn = random.Random(SEED + 1)
        self.process = start()
        self.ends: Counter[str] = Counter()

    def go_on(self, over: threading.Event) -> None:
        begun = time.monotonic()
        while not over.wait(max(3.0, self._drawn.uniform(0.01, 0.03) * self._seconds)):
            share = (time.monotonic() - begun) / self._seconds
            if 1 / 3 < share < 2 / 3:
                continue
            process = self.process
            if self._drawn.random() < 0.8:
                until(lambda process=process: acts(self._ledger, process.pid) or process.poll() is not None)
            assert process.poll() is None, "the daemon has left by itself"
            number = (signal.SIGKILL, signal.SIGTERM)[self.ends.total() % 2]
            process.send_signal(number)
            process.wait(120)
            self.ends[number.name] += 1
            over.wait(self._drawn.uniform(0.0, 3.0))
            self.process = self._start()


class Life:
    """What befalls machines, and what the operator does meanwhile."""

    def __init__(self, ledger: Ledger, keeper: Keeper, hours: Hours, windows: list[str], seconds: float) -> None:
        self._ledger, self._keeper, self._hours, self._windows = ledger, keeper, hours, windows
        self._seconds = seconds
        self._drawn = random.Random(SEED + 2)
        self.happened: Counter[str] = Counter()

    def go_on(self, over: threading.Event) -> None:
        every = max(3.0, min(20.0, self._seconds / 15))
        plan = ["lose", "hold", "spec", "lose", "crash", "lose", "silence", "lose"]
        while not over.wait(self._drawn.uniform(0.5, 1.5) * every):
            what = plan[self.happened.total() % len(plan)] if self._seconds < 600 else self._drawn.choice(plan)
            self.happened[what] += 1
            match what:
                case "hold":
                    self._close(min(30.0, self._seconds / 10))
                case "spec":
                    put_up_ocr(self._ledger, self._windows, self._drawn.randint(1, 4))
                case "silence":
                    with self._keeper.silence():
                        over.wait(self._drawn.uniform(0.5, 3.0))
                case _:
                    running = self._keeper.running()
                    if running:
                        self._keeper.befall(what, self._drawn.choice(running))

    def _close(self, seconds: float) -> None:
        now = datetime.now(UTC)
        reopened = now + timedelta(seconds=self._drawn.uniform(0.3, 1.0) * seconds)
        self._hours.closed.append((now, reopened))
        with self._ledger.write() as tx:
            deployments.override(tx, "ocr", "closed", reopened, now)


def put_up_ocr(ledger: Ledger, windows: list[str], workers: int) -> None:
    with ledger.write() as tx:
        text = OCR.format(windows=windows or '["Mon-Sun 00:00-24:00"]', workers=workers)
        deployments.put_up(tx, "ocr", text, "ocr.yaml", datetime.now(UTC))


@dataclass
class Memory:
    """Resident memory by process over time: (seconds, KiB)."""

    seen: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def look(self, at: float, name: str, pid: int) -> None:
        try:
            kib = psutil.Process(pid).memory_info().rss / 1024
        except psutil.Error:
            return
        self.seen.setdefault(name, []).append((at, kib))

    def now(self) -> str:
        """Of those that were looked at last."""
        latest = max((rows[-1][0] for rows in self.seen.values()), default=0.0)
        return ", ".join(f"{name} {rows[-1][1]:.0f} KiB" for name, rows in self.seen.items() if rows[-1][0] == latest)

    def longest(self, prefix: str) -> list[tuple[float, float]]:
        """Of the process that lived longest, without the first fifth of its life."""
        lives = [rows for name, rows in self.seen.items() if name.startswith(prefix)]
        rows = max(lives, key=lambda rows: rows[-1][0] - rows[0][0])
        return rows[len(rows) // 5 :]


def slope(rows: list[tuple[float, float]]) -> float:
    """KiB an hour, fitted by least squares."""
    seconds, kib = np.array(rows).T
    return float(np.polyfit(seconds / 3600, kib, 1)[0])


@contextmanager
def in_threads(over: threading.Event, *loops: Callable[[threading.Event], None]) -> Iterator[list[BaseException]]:
    """Each in a thread, until the block ends; what went wrong in them."""
    wrong: list[BaseException] = []

    def guarded(loop: Callable[[threading.Event], None]) -> None:
        try:
            loop(over)
        except BaseException as error:
            wrong.append(error)
            over.set()

    threads = [threading.Thread(target=guarded, args=(loop,)) for loop in loops]
    for thread in threads:
        thread.start()
    try:
        yield wrong
    finally:
        over.set()
        for thread in threads:
            thread.join()


Enough = Callable[[Tally, Restarts, Life], bool]


def mixed(
    home: Path, folder: Path, seconds: float, enough: Enough = lambda *_: True
) -> tuple[Tally, Restarts, Life, Memory]:
    """All of it for so long, on a slow machine up to four times as long until it is enough to tell, then an end in
    order. Prints what it saw."""
    begun, start, ledger = datetime.now(UTC), time.monotonic(), open_ledger(home)
    windows, hours = daily(begun, seconds, 5, 1) if seconds >= 600 else ([], Hours())
    read_windows, read_hours = daily(begun, seconds, 15, 3) if seconds >= 1200 else ([], Hours())
    put_up_ocr(ledger, windows, 1)
    with ledger.write() as tx:
        text = READ.format(windows=read_windows or '["Mon-Sun 00:00-24:00"]')
        deployments.put_up(tx, "read", text, "read.yaml", begun)
    over, tally, memory = threading.Event(), Tally(), Memory()
    with embodied.market(folder, SEED, seconds) as keeper:
        restarts = Restarts(home, ledger, lambda: embodied.daemon(home, keeper.url, folder), seconds)
        doors = {name: until(Door(home, name).running) for name in ("ocr", "read")}
        for door in doors.values():
            until(
                lambda door=door: httpx.get(f"{door.url}/healthz", trust_env=False, timeout=60).status_code == 200, 180
            )
        life = Life(ledger, keeper, hours, windows, seconds)
        callers = [Caller("ocr", doors["ocr"].url, hours, tally, SEED + number) for number in range(CALLERS)]
        callers.append(Caller("read", doors["read"].url, read_hours, tally, SEED))
        print(f"{begun:%H:%M:%S} for {seconds:.0f} s; a line every {max(10, seconds / 20):.0f} s", flush=True)
        began, said = time.monotonic(), 0.0
        with in_threads(over, *(one.call for one in callers), restarts.go_on, life.go_on) as wrong:
            while not over.wait(min(10.0, seconds / 30)):
                now = time.monotonic() - began
                if now > 4 * seconds or (now > seconds and enough(tally, restarts, life)):
                    break
                for name, door in doors.items():
                    memory.look(now, f"door {name}", door.pid)
                memory.look(now, f"daemon {restarts.process.pid}", restarts.process.pid)
                if now - said > max(10, seconds / 20):
                    said = now
                    print(f"{now:.0f} s: {tally.sent} sent, {len(tally.lost)} lost, {memory.now()}", flush=True)
        assert not wrong, wrong
        for name, door in doors.items():
            assert Door(home, name).running() == door  # the same, all the time
            until(lambda door=door: in_flight(door.url) == {}, why="a request is still in flight")
        taken = sum(one.preempted for one in keeper.rented())
        used = processor_seconds(
            [door.pid for door in doors.values()] + [restarts.process.pid, read_json(folder / "address")["pid"]]
        )
        print(summary(tally, restarts, life, memory, taken, used / (time.monotonic() - start)), flush=True)
        for name in doors:
            with ledger.write() as tx:
                deployments.take_down(tx, name, datetime.now(UTC))
        assert restarts.process.wait(120) == 0, (home / "daemon.log").read_text()[-3000:]
        assert keeper.running() == []
    until(lambda: not living(home), 60, "something is left")
    with ledger.read() as tx:
        assert [words for all_ in check(tx).values() for words in all_] == []
    ledger.close()
    return tally, restarts, life, memory


def in_flight(door: str) -> object:
    return httpx.get(f"{door}/-/status", trust_env=False, timeout=60).json()["in_flight"]


def processor_seconds(pids: list[int]) -> float:
    """Of this process, of all that it has waited for, and of these with what they have waited for."""
    own, found = os.times(), 0.0
    for pid in pids:
        times = psutil.Process(pid).cpu_times()
        found += times.user + times.system + times.children_user + times.children_system
    return found + own.user + own.system + own.children_user + own.children_system


def summary(tally: Tally, restarts: Restarts, life: Life, memory: Memory, taken: int, share: float) -> str:
    lines = [
        f"requests: {tally.sent} sent ({tally.sent_bytes / 2**20:.0f} MiB), "
        f"{sum(map(len, tally.latencies.values()))} answered, {tally.refused} refused while closed, "
        f"{len(tally.lost)} lost"
    ]
    for name, seconds in tally.latencies.items():
        if not seconds:
            continue
        p50, p95, p99, most = np.quantile(np.array(seconds) * 1000, (0.5, 0.95, 0.99, 1.0))
        lines.append(f"{name}: {len(seconds)} answers, p50 {p50:.0f} p95 {p95:.0f} p99 {p99:.0f} max {most:.0f} ms")
    lines.append(f"the daemon ended {restarts.ends.total()} times: {dict(restarts.ends)}")
    lines.append(f"the market took {taken} machines back; ordered: {dict(life.happened)}")
    for prefix in ("door ocr", "door read", "daemon"):
        rows = memory.longest(prefix)
        held = f"{rows[0][1]:.0f} -> {rows[-1][1]:.0f} KiB over {(rows[-1][0] - rows[0][0]) / 60:.1f} min"
        lines.append(f"{prefix}: {held}, slope {slope(rows):+.0f} KiB/h")
    lines.append(f"processor: {share:.0%} of one core, clients and market included")
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_minute_of_everything_loses_no_promised_request(home: Path) -> None:
    def enough(tally: Tally, restarts: Restarts, life: Life) -> bool:
        answers = len(tally.latencies["ocr"]) > 50 and len(tally.latencies["read"]) > 0
        return answers and restarts.ends.total() >= 2 and life.happened["lose"] >= 2 and life.happened["hold"] >= 1

    tally, restarts, life, memory = mixed(home, home / "market", 60.0, enough)
    assert tally.lost == []
    assert enough(tally, restarts, life), "it was worth while"
    grown = {name: rows[-1][1] - rows[0][1] for name, rows in memory.seen.items() if name.startswith("door")}
    assert max(grown.values()) < 32 * 1024, grown  # a minute tells no slope, but what keeps its bodies grows by more


@pytest.mark.soak
def test_an_hour_of_everything_loses_no_promised_request_and_memory_stays_flat(home: Path) -> None:
    """The bounds on memory. A door keeps one tally a minute, 60 KiB an hour for two days, and its heap may settle: to
    keep 300 bytes of each of 9,000 requests, or one body in 250, would be 4 MiB an hour. The daemon that lives longest
    lives for a third of the time, and settles in it: 6.5 MiB an hour were measured over its 12 to 20 minutes, of which
    the last 8 had 0.1. The bound is twice that, 3.5 KiB of each of 3,600 ticks.
    """
    tally, restarts, life, memory = mixed(home, home / "market", SECONDS)
    assert tally.lost == []
    assert len(tally.latencies["ocr"]) > SECONDS / 2
    assert restarts.ends.total() >= 10
    assert life.happened["lose"] >= 10
    if SECONDS >= 1800:  # in less a slope is noise
        assert max(slope(memory.longest(f"door {name}")) for name in ("ocr", "read")) < 4096
        assert slope(memory.longest("daemon")) < 13 * 1024
