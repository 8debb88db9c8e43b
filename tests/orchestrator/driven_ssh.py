"""A real daemon in a process of its own, whose hosts run tiny replicas.

main() takes: HOME [MODULE:COMMAND]
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from orchestrator import hosts
from orchestrator.clock import SystemClock
from orchestrator.daemon import Daemon
from orchestrator.deployment import Running, local_offer, open_running
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.store import Ledger, open_ledger
from orchestrator.providers.local import LocalProvider
from orchestrator.providers.ssh.provider import Offered, SshProvider
from tests.orchestrator import tiny_there
from tests.orchestrator.forked import Forked
from tests.orchestrator.sshd import Server

TINY = "tests.orchestrator.tiny_there:command"
SLOW = "tests.orchestrator.tiny_there:slow"


def main() -> None:
    logging.basicConfig(level=logging.INFO)

    def open_one(home: Path, clock: SystemClock, ledger: Ledger, row: Deployment) -> Running:
        running = open_running(home, clock, ledger, row)
        offered = [
            Offered(host=replace(one.host, replica=named), offer=one.offer) for one in hosts.offered(running.spec)
        ]
        here = LocalProvider(home, clock, local_offer(running.spec), command)
        there = SshProvider(home, clock, offered, running.spec.replica_digest())
        running.world = replace(running.world, providers={"ssh": there, "local": here})
        return running

    home, named = Path(sys.argv[1]), sys.argv[2]
    command = getattr(tiny_there, named.partition(":")[2])
    Daemon(home, open_ledger(home), SystemClock(), open_one).run()


def spec(*servers: Server, here: int = 0) -> str:
    """A replica on each host, so many on this machine, at a door of its own."""
    lines = "".join(
        f"    - {{address: 127.0.0.1, port: {one.port}, key: {one.user_key}, python: {sys.executable}, gpu: tiny, "
        "price_per_hour: 1.80}\n"
        for one in servers
    )
    count = len(servers) + here
    providers = "[ssh, local]" if here else "ssh"
    return (
        f"name: ocr\nmodel: ppocr\nprovider: {providers}\nreplicas: {{min: {count}, max: {count}}}\n"
        f"door: {{listen: 127.0.0.1:0}}\nssh:\n  hosts:\n{lines}"
    )


@contextmanager
def daemon(home: Path, command: str = TINY) -> Iterator[Forked]:
    """One in the background; its words go to `daemon.log`, and it ends with the block at the latest."""
    process = Forked("tests.orchestrator.driven_ssh", home, command, out=home / "daemon.log", folder=home)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
