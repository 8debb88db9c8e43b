"""A replica with a small body: it speaks the engine's HTTP and JSON, in a process of its own that can be killed.

What it does with an image depends on its bytes: `corrupt` is a 400, `broken` a 500, `hangs` never answers, and `poison`
kills the process. It writes a line per image read to the file it is given.

    python -m tests.orchestrator.fake_engine PORT LOG SECONDS_PER_IMAGE AT_ONCE SOURCE_THAT_IT_MAY_READ
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.orchestrator.ports import free_port

NAME = re.compile(rb'name="file"; filename="([^"]*)"')
FIELDS = re.compile(rb'name="fields"\r\n\r\n([^\r]*)')


class Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    log_path: Path
    seconds: float
    turn: threading.Semaphore
    allowed: str

    def do_GET(self) -> None:
        self._answer(200, {"status": "ready", "sources": [self.allowed] if self.allowed else []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        source = ""
        if self.headers["Content-Type"] == "application/json":
            source = json.loads(body)["image"]["source"]
            if not (self.allowed and source.startswith(self.allowed)):
                return self._answer(403, {"error": f"{source}: not within what this replica may read"})
            name = Path(source).name.encode()
            try:
                content = Path(unquote(source.removeprefix("file://"))).read_bytes()
            except OSError as error:
                return self._answer(404, {"error": f"{source}: {error.strerror}"})
        else:
            found = NAME.search(body)
            assert found is not None
            name = found.group(1)
            content = body.split(b"\r\n\r\n", 2 if FIELDS.search(body) else 1)[-1]
        with self.log_path.open("ab") as log:
            asked = {"name": name.decode("utf-8", "replace"), "priority": self.headers["X-Halve-Priority"]}
            log.write(json.dumps(asked | ({"source": source} if source else {})).encode() + b"\n")
        with self.turn:
            time.sleep(self.seconds)
        if b"poison" in content:
            os._exit(137)
        if b"hangs" in content:
            time.sleep(3600)
        if b"corrupt" in content:
            return self._answer(400, {"error": "damaged PNG image"})
        if b"broken" in content:
            return self._answer(500, {"error": "reading failed"})
        if b"busy" in content:
            return self._answer(503, {"error": "closed", "reason": "closed until tomorrow"}, {"Retry-After": "86400"})
        if b"barred" in content:
            return self._answer(401, {"error": "no token"})
        wanted = FIELDS.search(body)
        return self._answer(
            200,
            {
                "original_filename": name.decode("utf-8", "replace"),
                "width": 1,
                "height": 1,
                "recognized_text": content.split(b"\r\n--")[0].decode("utf-8", "replace"),
                "lines": [],
                "structured_data": dict.fromkeys(wanted.group(1).decode().split(","), "") if wanted else {},
                "processing_time_ms": self.seconds * 1000,
                "model": "fake",
                "precision": "fp32",
            },
        )

    def _answer(self, status: int, says: object, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(says, ensure_ascii=False).encode()
        self.send_response(status)
        own = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        for key, value in (own | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients die here, that is what the tests are about


class Replica:
    """The engine as a child process on one port: killed, and started again there."""

    def __init__(self, folder: Path, seconds: float = 0.0, at_once: int = 64, allowed: str = "") -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1/ocr"
        self.log = folder / "engine.log"
        self._pace = (str(seconds), str(at_once), allowed)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Replica":
        arguments = ["-m", "tests.orchestrator.fake_engine", str(self.port), str(self.log), *self._pace]
        self._process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def freeze(self) -> None:
        """It takes what it is asked, and does nothing about it. Only a kill ends that."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def dead(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def seen(self) -> list[dict[str, str]]:
        """What it was asked to read, once per request, over all its lives."""
        return [json.loads(line) for line in self.log.read_bytes().splitlines()] if self.log.exists() else []


@pytest.fixture
def replica(tmp_path_factory: pytest.TempPathFactory):
    made = Replica(tmp_path_factory.mktemp("engine"), 0.005)
    yield made
    made.kill()


def main() -> None:
    Engine.log_path, Engine.seconds = Path(sys.argv[2]), float(sys.argv[3])
    Engine.turn = threading.Semaphore(int(sys.argv[4]))
    Engine.allowed = sys.argv[5]
    server = Server(("127.0.0.1", int(sys.argv[1])), Engine)
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
