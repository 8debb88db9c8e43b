"""The real server and queue before an engine that finds nothing on any page, in exactly as long as it is told.

python -m tests.inference.sleeper LISTENING_SOCKET SECONDS_PER_IMAGE
"""

import socket
import subprocess
import sys
import time
from collections.abc import Sequence

import httpx
import uvicorn

from inference import server
from inference.engine import Reading
from inference.images import Pixels
from inference.service import Service, Settings

START_SECONDS = 120.0


class Sleeper:
    """An engine in name."""

    model, precision, provider, fallback, on_accelerator = "sleeper", "fp32", "none", None, False

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def read(self, pages: Sequence[Pixels]) -> list[Reading]:
        time.sleep(self.seconds * len(pages))
        return [
            Reading(width=page.shape[1], height=page.shape[0], lines=(), seconds=self.seconds * len(pages))
            for page in pages
        ]


class Sleeping(Service):
    """One worker, and no model to load."""

    def __init__(self, seconds: float) -> None:
        super().__init__(Settings(workers=1))
        self.seconds = seconds

    async def load(self) -> None:
        self.start(Sleeper(self.seconds))  # type: ignore[arg-type]


class SleepingReplica:
    """Such a server as a child process. Started when made."""

    def __init__(self, seconds: float) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:  # and handed over: nobody else gets the port in between
            self.port, number = taken.getsockname()[1], taken.fileno()
            command = [sys.executable, "-m", "tests.inference.sleeper", str(number), str(seconds)]
            self._process = subprocess.Popen(command, pass_fds=[number])
        self.url = f"http://127.0.0.1:{self.port}/v1/ocr"
        end = time.monotonic() + START_SECONDS
        try:
            while not self._ready():
                assert time.monotonic() < end and self._process.poll() is None, "it did not start"
                time.sleep(0.05)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/v2/health/ready").is_success
        except httpx.TransportError:
            return False


def main() -> None:
    service = Sleeping(float(sys.argv[2]))
    app = server.app(service, failed=lambda error: None)
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()
