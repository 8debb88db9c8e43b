"""A real engine process on a free port, for tests that speak HTTP to it."""

import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 120.0
ANSWER_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Replica:
    process: subprocess.Popen[bytes]
    announced: dict[str, Any]
    client: httpx.Client

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("/healthz").json()
        return found

    def until(self, status: str) -> dict[str, Any]:
        end = time.monotonic() + START_SECONDS
        while (health := self.health())["status"] != status:
            assert time.monotonic() < end, f"still {health['status']}"
            assert self.process.poll() is None
            time.sleep(0.02)
        return health

    def until_in_flight(self, count: int) -> None:
        """So many requests, no more and no fewer."""
        end = time.monotonic() + ANSWER_SECONDS
        while (seen := self.health()["in_flight"]) != count:
            assert time.monotonic() < end, f"{seen} in flight"
            time.sleep(0.01)


class HalfSent:
    """A request of several images of which half of the bytes are there: in flight until it is told to go on, however
    fast the replica is and however long this process is kept waiting."""

    def __init__(self, running: Replica, *images: bytes) -> None:
        whole = httpx.Request("POST", "http://replica/v1/ocr", files=[("file", image) for image in images])
        sent = whole.read()
        self._rest = sent[len(sent) // 2 :]
        self._connection = http.client.HTTPConnection("127.0.0.1", running.announced["port"], timeout=ANSWER_SECONDS)
        self._connection.putrequest("POST", "/v1/ocr")
        for name in ("content-type", "content-length"):
            self._connection.putheader(name, whole.headers[name])
        self._connection.endheaders(sent[: len(sent) // 2])

    def answered(self) -> tuple[int, Any]:
        """Send the rest; status and JSON of the answer."""
        self._connection.send(self._rest)
        answer = self._connection.getresponse()
        found = answer.status, json.loads(answer.read())
        self._connection.close()
        return found


@contextlib.contextmanager
def replica(folder: Path, *options: str) -> Iterator[Replica]:
    """Started and listening; the model may still be loading. Ended at the end, if it has not ended by itself."""
    announcement = folder / "announced.json"
    command = [sys.executable, "-m", "inference", "--port", "0", "--announce", str(announcement), *options]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            end = time.monotonic() + START_SECONDS
            while not announcement.exists():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end, "nothing announced"
                time.sleep(0.02)
            announced = json.loads(announcement.read_text())
            # a connection that was kept is closed by the server after five seconds, maybe while it is being used again
            anew = httpx.Limits(max_keepalive_connections=0)
            with httpx.Client(base_url=announced["url"], timeout=ANSWER_SECONDS, limits=anew) as client:
                yield Replica(process, announced, client)
        finally:
            if process.poll() is None:
                process.kill()
