"""An engine with a small body, behind the certificate of its machine: it speaks a replica's HTTP, and reads slowly.

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


class Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    draining = False
    in_flight = 0
    seconds = 0.0
    alone = threading.Lock()

    def do_GET(self) -> None:
        self.say(200, {"status": "draining" if Engine.draining else "ready", "in_flight": Engine.in_flight})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/drain":
            Engine.draining = True
            self.say(202, {"status": "draining"})
        elif Engine.draining:
            self.say(503, {"error": "draining"}, {"Retry-After": "1"})  # as the real one: another may read it
        else:
            self.read()

    def read(self) -> None:
        with Engine.alone:
            Engine.in_flight += 1
        time.sleep(Engine.seconds)
        self.say(200, {"recognized_text": "read", "lines": []})
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
    Engine.seconds = float(sys.argv[3])
    Server(int(sys.argv[1]), Path(sys.argv[2])).serve_forever()
