"""Keys and certificates as machines make them for themselves, and servers behind them."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

READY = b'{"status": "ready"}'


def certified(folder: Path, name: str) -> tuple[Path, Path]:
    """A new key and its certificate, each time others."""
    key, certificate = folder / f"{name}.key.pem", folder / f"{name}.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "36500", "-subj", "/CN=halve replica"]
    made = [*make, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    return key, certificate


class Ready(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def parse_request(self) -> bool:
        assert isinstance(self.server, Replicas)
        self.server.heard.append(self.raw_requestline)
        return super().parse_request()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(READY)))
        self.end_headers()
        self.wfile.write(READY)

    def log_message(self, *_: object) -> None:
        pass


class Replicas(ThreadingHTTPServer):
    """Behind its certificate, to whoever bears the one it was told."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Ready)
        self.tls = tls
        self.asked = 0  # connections that were let in
        self.heard: list[bytes] = []  # first lines of requests

    def finish_request(self, request: object, address: object) -> None:
        assert isinstance(request, socket.socket)
        if self.tls is not None:
            request = self.tls.wrap_socket(request, server_side=True)
        self.asked += 1
        super().finish_request(request, address)  # type: ignore[arg-type]  # an SSLSocket is a socket

    def handle_error(self, *_: object) -> None:
        pass


@contextmanager
def serving(tls: ssl.SSLContext | None, port: int = 0) -> Iterator[Replicas]:
    server = Replicas(tls, port)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def at(server: Replicas) -> str:
    return f"https://127.0.0.1:{server.server_port}"


def certified_server(folder: Path, name: str, client: str) -> tuple[ssl.SSLContext, str]:
    """A server's side that lets this client in, and its certificate."""
    key, certificate = certified(folder, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(cadata=client)
    context.verify_mode = ssl.CERT_REQUIRED
    return context, certificate.read_text()
