"""An engine with a small body, behind the certificate of its machine: it speaks a replica's HTTP, and reads slowly.

What it reads is what the image's bytes say; it writes that down as it begins, in the machine's folder. While a file
`held` is there it ends nothing that it has begun, and writes into that what it holds.

python -m tests.orchestrator.aws_engine PORT FOLDER_OF_THE_MACHINE SECONDS_PER_IMAGE
"""

import json
import ssl
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

#: what was begun, a line for each image
READ = "read.log"
HELD = "held"


class Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    draining = False
    in_flight = 0
    seconds = 0.0
    alone = threading.Lock()
    log_path: Path

    def do_GET(self) -> None:
        self.say(200, {"status": "draining" if Engine.draining else "ready", "in_flight": Engine.in_flight})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/drain":
            Engine.draining = True
            self.say(202, {"status": "draining"})
        elif Engine.draining:
            self.say(503, {"error": "draining"}, {"Retry-After": "1"})  # as the real one: another may read it
        else:
            self.read(body.partition(b"\r\n\r\n")[2].partition(b"\r\n--")[0].decode("utf-8", "replace"))

    def read(self, image: str) -> None:
        with Engine.alone:
            Engine.in_flight += 1
            with Engine.log_path.open("a") as log:
                log.write(f"{image}\n")
        time.sleep(Engine.seconds)
        held = Engine.log_path.with_name(HELD)
        while held.exists():
            held.write_text(image)
            time.sleep(0.02)
        self.say(200, {"recognized_text": image, "lines": []})
        with Engine.alone:
            Engine.in_flight -= 1

    def say(self, status: int, what: object, more: Mapping[str, str] | None = None) -> None:
        content = json.dumps(what).encode()
        self.send_response(status)
        own = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        for name, value in (own | dict(more or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, machine: Path) -> None:
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(machine / "tls" / "certificate.pem", machine / "tls" / "key.pem")
        self.tls.load_verify_locations(machine / "controller.pem")
        self.tls.verify_mode = ssl.CERT_REQUIRED
        super().__init__(("127.0.0.1", port), Engine)

    def finish_request(self, request: object, address: object) -> None:
        with self.tls.wrap_socket(request, server_side=True) as secured:  # type: ignore[arg-type]  # a socket it is
            super().finish_request(secured, address)  # type: ignore[arg-type]

    def handle_error(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    Engine.seconds, Engine.log_path = float(sys.argv[3]), Path(sys.argv[2]) / READ
    Server(int(sys.argv[1]), Path(sys.argv[2])).serve_forever()
