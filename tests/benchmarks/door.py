"""What the door costs: one upstream, asked directly, through the door and through HAProxy, in one run.

`python -m tests.benchmarks.door`. Must: 0.35 of the direct requests per second with 32 connections, and at most 2 ms
more at the median for one client. HAProxy is the yardstick, where it is installed (Debian: apt-get install haproxy).
All three take turns, so that what else the machine does meets all of them; the figures are medians over the rounds.
They run in one session, too: Linux shares a busy processor out by session (autogroup), and the door has one of its own
otherwise. What the machine does besides does not touch the processor time per request, which is printed beside them.
"""

import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from orchestrator.door import Door, Replica, ServingSet
from tests.orchestrator.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
CONNECTIONS = 32
ROUND_SECONDS = 1.5
ROUNDS = 5
ASKED_ONE_BY_ONE = 500
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
PHOTO = b"POST /v1/ocr HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + bytes(200_000)


async def app(scope, receive, send):  # type: ignore[no-untyped-def]
    """The least that a server can do: take the body, say ok."""
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


class Asker(asyncio.Protocol):
    """One connection that asks again as soon as it is answered. As little client as possible, so as to measure none."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.answered = 0
        self.stopped = False
        self.failed: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1") and not data.startswith(b"HTTP/1.1 200"):
            self.failed = data[:200].decode(errors="replace")
        if data.endswith(b"ok"):  # head and body come in one segment or in two
            self.answered += 1
            if not self.stopped:
                self._transport.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.stopped:
            self.failed = self.failed or f"connection lost: {error}"


async def requests_per_second(url: str, request: bytes) -> float:
    """With 32 connections. Raises RuntimeError when one request was not answered with 200."""
    address = urlsplit(url)
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: Asker(request), address.hostname, address.port) for _ in range(CONNECTIONS)
    ]
    begun, before = time.perf_counter(), sum(asker.answered for _, asker in made)
    await asyncio.sleep(ROUND_SECONDS)
    seconds, answered = time.perf_counter() - begun, sum(asker.answered for _, asker in made) - before
    for transport, asker in made:
        asker.stopped = True
        transport.abort()
        if asker.failed:
            raise RuntimeError(asker.failed)
    return answered / seconds


async def one_by_one(urls: list[str]) -> list[float]:
    """Median seconds of a request from one client, per url; the urls take turns, so that noise meets all of them."""
    times: list[list[float]] = [[] for _ in urls]
    connections = [await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port) for url in urls]
    for _ in range(ASKED_ONE_BY_ONE):
        for (reader, writer), taken in zip(connections, times, strict=True):
            begun = time.perf_counter()
            writer.write(GET)
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(2)
            taken.append(time.perf_counter() - begun)
    for _, writer in connections:
        writer.close()
    return [statistics.median(taken) for taken in times]


@contextmanager
def served() -> Iterator[tuple[str, int]]:
    """The upstream as a process, with uvicorn as it is installed here: its address and its pid."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.benchmarks.door:app", "--port", str(port), "--no-access-log"]
    with subprocess.Popen([*command, "--log-level", "warning"], cwd=ROOT) as process:
        try:
            asyncio.run(_reachable(port))
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()


@contextmanager
def opened(upstream: str, folder: Path) -> Iterator[tuple[str, int]]:
    """A door before the upstream: its address and its pid."""
    port = free_port()
    door = Door(folder, "bench")
    door.publish(ServingSet(deployment="bench", open=True, replicas=(Replica(id="a", url=upstream),)))
    command = [sys.executable, "-m", "orchestrator.door", "--home", str(folder), "--deployment", "bench"]
    with closing(door), subprocess.Popen([*command, "--listen", f"127.0.0.1:{port}"], cwd=ROOT) as process:
        try:
            asyncio.run(_reachable(port))
            door.status()
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()


async def _reachable(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


HAPROXY = """
global
  nbthread 1
defaults
  mode http
  timeout connect 3s
  timeout client 60s
  timeout server 60s
frontend door
  bind 127.0.0.1:{port}
  option forwardfor
  default_backend replicas
backend replicas
  balance leastconn
  http-reuse safe
  retry-on conn-failure empty-response
  option redispatch
  server a {upstream}
"""


@contextmanager
def haproxy(upstream: str, folder: Path) -> Iterator[tuple[str, int] | None]:
    """HAProxy with one thread before the same upstream, with what the door does as far as it can; None without it."""
    if shutil.which("haproxy") is None:
        yield None
        return
    port = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=port, upstream=urlsplit(upstream).netloc))
    with subprocess.Popen(["haproxy", "-db", "-f", str(config)], stderr=subprocess.DEVNULL) as process:
        try:
            asyncio.run(_reachable(port))
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()


def measured(way: str, url: str, request: bytes, pids: Mapping[str, int]) -> tuple[float, dict[str, float]]:
    """Requests per second on one way, and the processor seconds of each process that is on it per request."""
    on_it = {name: psutil.Process(pid) for name, pid in pids.items() if name in ("direct", way)}
    before = {name: sum(process.cpu_times()[:2]) for name, process in on_it.items()}
    rate = asyncio.run(requests_per_second(url, request))
    answered = rate * ROUND_SECONDS
    return rate, {name: (sum(one.cpu_times()[:2]) - before[name]) / answered for name, one in on_it.items()}


def main() -> None:
    """Print requests per second on each way, their ratios, and what the ways add for one client."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = {"direct": stack.enter_context(served())}
        found["door"] = stack.enter_context(opened(found["direct"][0], folder))
        if other := stack.enter_context(haproxy(found["direct"][0], folder)):
            found["HAProxy"] = other
        ways, pids = ({name: one[0] for name, one in found.items()}, {name: one[1] for name, one in found.items()})
        for name, request in (("small requests", GET), ("200 kB photos", PHOTO)):
            rounds = [{way: measured(way, url, request, pids) for way, url in ways.items()} for _ in range(ROUNDS)]
            rates = {way: statistics.median(one[way][0] for one in rounds) for way in ways}
            ratios = {way: statistics.median(one[way][0] / one["direct"][0] for one in rounds) for way in ways}
            said = ", ".join(f"{way} {rates[way]:,.0f}/s ({ratios[way]:.2f})" for way in ways)
            print(f"{name}, {CONNECTIONS} connections: {said}; of direct the door must have 0.35")
            costs = {way: statistics.median(one[way][1][way] for one in rounds) * 1e6 for way in ways}
            totals = {way: statistics.median(sum(one[way][1].values()) for one in rounds) for way in ways}
            said = ", ".join(
                f"{way} {cost:.0f} us ({totals['direct'] / totals[way]:.2f})" for way, cost in costs.items()
            )
            print(f"  processor time a request: {said}; in brackets the rate if both shared one core with nothing else")
        alone = [asyncio.run(one_by_one([*ways.values()])) for _ in range(ROUNDS)]
        times = dict(zip(ways, map(statistics.median, zip(*alone, strict=True)), strict=True))
        said = ", ".join(f"{way} {seconds * 1000:.2f} ms" for way, seconds in times.items())
        added = {way: (seconds - times["direct"]) * 1000 for way, seconds in times.items() if way != "direct"}
        more = ", ".join(f"{way} adds {milliseconds:.2f} ms" for way, milliseconds in added.items())
        print(f"one client, p50: {said}; {more}; the door must add at most 2 ms")


if __name__ == "__main__":
    main()
