"""A link: the process that holds the connection to one host.

    python -m orchestrator.providers.ssh.process HOME NAME < {"word": ..., "settings": ...}

It connects, and connects again; installs what is missing; answers the provider in time whatever the host does; forwards
a port to each replica; and switches the host on and off where there are commands for it. It lives for as long as the
host has replicas of ours or somebody asks, and is found by its lock, pid and birth.
"""

import asyncio
import fcntl
import json
import logging
import os
import sys
from pathlib import Path

from aiohttp import web

from orchestrator.files import write_json
from orchestrator.processes import birth
from orchestrator.providers import ProviderError
from orchestrator.providers.ssh.host import Files, Host, recall
from orchestrator.providers.ssh.link import WORD_HEADER, LinkProcess
from orchestrator.providers.ssh.server import LinkServer


async def serve(home: Path, host: Host, word: str, settings: str) -> None:
    """Answer on a free port of this machine to whoever knows the word, until the link leaves."""
    link = LinkServer(home, host)

    async def answer(request: web.Request) -> web.Response:
        if request.headers.get(WORD_HEADER) != word:
            return web.json_response({"error": "Misconfigured", "words": "wrong word"}, status=403)
        try:
            return web.json_response(await link.answer(request.match_info["do"], await request.json()))
        except ProviderError as error:
            return web.json_response({"error": type(error).__name__, "words": str(error)}, status=409)
        except OSError as error:
            words = f"{error.filename}: {error.strerror}"
            return web.json_response({"error": "NoCapacity", "words": words}, status=409)

    application = web.Application()
    application.router.add_post("/{do}", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    own = LinkProcess(pid=os.getpid(), birth=birth(os.getpid()) or "", port=port, word=word, settings=settings)
    write_json(Files.of(home, host.name).process, own.to_json())
    Files.of(home, host.name).process.chmod(0o600)
    try:
        await link.run()
    finally:
        Files.of(home, host.name).process.unlink(missing_ok=True)
        await runner.cleanup()


def main() -> None:
    home, name = Path(sys.argv[1]), sys.argv[2]
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("asyncssh").setLevel(logging.ERROR)
    told = json.load(sys.stdin)
    host = recall(home, name)
    if host is None:
        sys.exit(f"{Files.of(home, name).host} is gone")
    with Files.of(home, name).lock.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another process holds {lock.name}")
        asyncio.run(serve(home, host, told["word"], told["settings"]))


if __name__ == "__main__":
    main()
