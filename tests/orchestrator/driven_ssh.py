"""A real daemon in a process of its own, whose hosts run tiny replicas.

python -m tests.orchestrator.driven_ssh HOME
"""

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from orchestrator import hosts
from orchestrator.clock import SystemClock
from orchestrator.daemon import Daemon
from orchestrator.deployment import Running, open_running
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.store import Ledger, open_ledger
from orchestrator.providers.ssh.provider import Offered, SshProvider
from tests.orchestrator.sshd import Server

TINY = "tests.orchestrator.tiny_there:command"


def main() -> None:
    logging.basicConfig(level=logging.INFO)

    def open_one(home: Path, clock: SystemClock, ledger: Ledger, row: Deployment) -> Running:
        running = open_running(home, clock, ledger, row)
        offered = [
            Offered(host=replace(one.host, replica=TINY), offer=one.offer) for one in hosts.offered(running.spec)
        ]
        provider = SshProvider(home, clock, offered, running.spec.replica_digest())
        running.world = replace(running.world, providers={"ssh": provider})
        return running

    home = Path(sys.argv[1])
    Daemon(home, open_ledger(home), SystemClock(), open_one).run()


def spec(*servers: Server, extra: str = "") -> str:
    """Two replicas at least where there are two hosts, at a door of its own."""
    lines = "".join(
        f"    - {{address: 127.0.0.1, port: {one.port}, key: {one.user_key}, python: {sys.executable}, gpu: tiny, "
        f"price_per_hour: 1.80{extra}}}\n"
        for one in servers
    )
    count = len(servers)
    return (
        f"name: ocr\nmodel: ppocr\nprovider: ssh\nreplicas: {{min: {count}, max: {count}}}\n"
        f"door: {{listen: 127.0.0.1:0}}\nssh:\n  hosts:\n{lines}"
    )


@contextmanager
def daemon(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One in the background; its words go to `daemon.log`, and it ends with the block at the latest."""
    with (home / "daemon.log").open("a") as log:
        command = [sys.executable, "-m", "tests.orchestrator.driven_ssh", str(home)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
