"""A machine on AWS as a process of its own: its watchdog, told by real user data, beside a fake metadata service."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import yaml

from orchestrator.pinning import Pins
from tests.orchestrator.ports import free_port
from tests.orchestrator.tiny import until


@dataclass
class Metadata:
    """A metadata service: IMDSv2 only, as our machines ask for."""

    url: str = ""
    documents: dict[str, Any] = field(default_factory=dict)
    asked: int = 0


@contextmanager
def metadata_service() -> Iterator[Metadata]:
    said = Metadata()

    class Answers(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            lives = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
            self.reply(200 if self.path == "/latest/api/token" and lives else 403, b"the token")

        def do_GET(self) -> None:
            said.asked += 1
            if self.headers.get("X-aws-ec2-metadata-token") != "the token":
                return self.reply(401, b"")
            document = said.documents.get(self.path.removeprefix("/latest/meta-data/"))
            return self.reply(404, b"") if document is None else self.reply(200, json.dumps(document).encode())

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    said.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield said
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Machine:
    """What its user data makes of a folder instead of a machine. It is off once `off` is there."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        """Its watchdog's."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def off(self) -> Path:
        return self.folder / "off"

    @property
    def console(self) -> Path:
        return self.folder / "console"

    @property
    def key(self) -> Path:
        return self.folder / "tls" / "key.pem"

    @property
    def certificate(self) -> Path:
        return self.folder / "tls" / "certificate.pem"

    def lease_until(self) -> float:
        """On the monotonic clock."""
        return float(until((self.folder / "lease").read_text))  # empty for a moment each time that it is written

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def client(self, home: Path, key: bytes) -> httpx.Client:
        """One that knows it, and that it knows if the key is its controller's."""
        until(self.certificate.exists, why="it never made its certificate")
        pins = Pins(home)
        pins.introduce(key)
        pins.pin("this", [self.url], self.certificate.read_text())
        return httpx.Client(base_url=self.url, transport=pins.transport(), timeout=30)


def started(folder: Path, user_data: str, metadata: str = "", port: int = 0, **own: object) -> Machine:
    """The watchdog of user data, in a folder that may be a machine's of before. `own`: what is told otherwise."""
    folder.mkdir(exist_ok=True)
    files: Mapping[str, str] = {one["path"]: one["content"] for one in yaml.safe_load(user_data)["write_files"]}
    port = port or free_port()
    here = {"port": port, "poweroff": ["touch", str(folder / "off")], "poll_seconds": 0.1, "say_seconds": 0.2}
    here |= {"metadata": metadata or "http://127.0.0.1:9", "kept": str(folder / "lease")}
    here |= {"notices": str(folder / "notices.json")}
    here |= {"tls": str(folder / "tls"), "console": str(folder / "console")}
    told = {**json.loads(files["/opt/halve/watchdog.json"]), **here, **own}
    (folder / "watchdog.json").write_text(json.dumps(told))
    (folder / "watchdog.py").write_text(files["/opt/halve/watchdog.py"])
    (folder / "controller.pem").write_text(files["/opt/halve/controller.pem"])
    command = [sys.executable, str(folder / "watchdog.py"), str(folder / "watchdog.json")]
    return Machine(folder, port, subprocess.Popen(command, stderr=subprocess.DEVNULL))
