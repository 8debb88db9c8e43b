"""A small replica for tests of the door, as a process of its own: `python -m tests.orchestrator.door_upstream NAME`."""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Upstream:
    name: str
    url: str
    process: subprocess.Popen[str]

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def tell(self, word: str) -> None:
        """`go`: what waits at its gate is answered. `drain`."""
        import httpx  # not by the process itself, which starts the sooner

        assert httpx.post(f"{self.url}/{word}", timeout=60).status_code == 200

    def works(self) -> int:
        """How many requests for recognition it has had, whole."""
        import httpx

        return int(httpx.get(self.url, timeout=60).json()["ocr"])


@contextmanager
def upstream(name: str, port: int = 0) -> Iterator[Upstream]:
    """A replica that answers, killed at the end if it still lives."""
    command = [sys.executable, "-m", "tests.orchestrator.door_upstream", name, str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            bound = int(process.stdout.readline())
            yield Upstream(name, f"http://127.0.0.1:{bound}", process)
        finally:
            process.kill()


def make_app(name: str) -> web.Application:
    """Recognition takes `seconds`, at the replica `only` if that is said; with `gate`, until it is told to `go`."""
    draining, going = asyncio.Event(), asyncio.Event()
    seen = {"ocr": 0}

    async def ocr(request: web.Request) -> web.Response:
        if draining.is_set():
            return web.json_response({"error": "draining"}, status=503, headers={"Retry-After": "3"})
        body = await request.read()
        seen["ocr"] += 1
        if request.query.get("only", name) == name:
            await asyncio.sleep(float(request.query.get("seconds", 0)))
        if "gate" in request.query:
            await going.wait()
        if "die" in request.query:
            os._exit(1)
        said = {"replica": name, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        images = {"X-Halve-Images": request.query["images"]} if "images" in request.query else {}
        return web.json_response(said, headers=images, status=int(request.query.get("status", 200)))

    async def echo(request: web.Request) -> web.Response:
        return web.json_response(
            {
                "replica": name,
                "method": request.method,
                "path": request.raw_path,
                "headers": [[key, value] for key, value in request.headers.items()],
                "ocr": seen["ocr"],
            },
            headers={"X-Own": "yes", "Keep-Alive": "timeout=9"},
        )

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if "length" in request.query:
            response.content_length = int(request.query["pieces"]) * 65536
        await response.prepare(request)
        for index in range(int(request.query["pieces"])):
            if index and "gate" in request.query:
                await going.wait()
            await response.write(bytes([index % 256]) * 65536)
            await asyncio.sleep(float(request.query.get("seconds", 0)))
            if "die" in request.query:
                os._exit(1)
        return response

    async def events(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for index in range(int(request.query["pieces"])):
            await response.write(b"data: %d\n\n" % index)
            await asyncio.sleep(float(request.query["seconds"]))
        return response

    async def drain(_: web.Request) -> web.Response:
        draining.set()
        return web.Response()

    async def go(_: web.Request) -> web.Response:
        going.set()
        return web.Response()

    app = web.Application(client_max_size=2**27)
    app.router.add_post("/v1/ocr", ocr)
    app.router.add_post("/ui/upload", ocr)
    app.router.add_get("/stream", stream)
    app.router.add_get("/events", events)
    app.router.add_get("/ui/events", events)
    app.router.add_post("/drain", drain)
    app.router.add_post("/go", go)
    app.router.add_route("*", "/{path:.*}", echo)
    return app


async def main(name: str, port: int) -> None:
    runner = web.AppRunner(make_app(name), access_log=None, auto_decompress=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
