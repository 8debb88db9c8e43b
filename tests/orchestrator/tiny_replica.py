"""A replica with next to no body: health, drain and an answer to POST, in a process that starts in a tenth of a second.

    python tiny_replica.py ANNOUNCE [MANNER...]

Manners: `loading` (never ready), `deaf` (ignores SIGTERM), `dies` (ends at once), `mute` (listens, never answers),
`forks` (leaves the work, and the lock, to a child), `slow` (takes a fifth of a second for an answer). An image that
says `held by PATH` is not answered while that file is there.
"""

import json
import os
import re
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

draining = False


class Replica(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if "mute" in sys.argv:
            time.sleep(3600)
        status = "draining" if draining else "loading" if "loading" in sys.argv else "ready"
        self._answer({"status": status, "in_flight": 0})

    def do_POST(self) -> None:
        global draining
        said = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/drain":
            draining = True
        elif "slow" in sys.argv:
            time.sleep(0.2)
        for path in re.findall(rb"held by (\S+)", said):
            while Path(os.fsdecode(path)).exists():
                time.sleep(0.02)
        self._answer({"recognized_text": "tiny", "pid": os.getpid()})

    def _answer(self, says: object) -> None:
        content = json.dumps(says).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    if "dies" in sys.argv:
        sys.exit("the model is not there")
    if "deaf" in sys.argv:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "forks" in sys.argv and os.fork():
        signal.pause()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Replica)
    server.daemon_threads = True
    announce = Path(sys.argv[1])
    port = server.server_address[1]
    draft = announce.with_suffix(".draft")
    draft.write_text(json.dumps({"pid": os.getpid(), "port": port, "url": f"http://127.0.0.1:{port}"}))
    draft.replace(announce)
    server.serve_forever()


if __name__ == "__main__":
    main()
