"""A real engine process on a free port, for tests that speak HTTP to it."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 60.0


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
            with httpx.Client(base_url=announced["url"], timeout=60) as client:
                yield Replica(process, announced, client)
        finally:
            if process.poll() is None:
                process.kill()
