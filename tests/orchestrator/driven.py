"""A real daemon in a process of its own, with tiny replicas, a quick clock, and a fuse where the test wants one.

main() takes: HOME [--no-wait] [--slow] [--die EFFECT [--down] [--signal NUMBER]] [--market URL]
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.clock import SystemClock
from orchestrator.daemon import Daemon
from orchestrator.deployment import Running, local_offer, open_running
from orchestrator.errors import Refused
from orchestrator.ledger import deployments, fleet
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.fleet import Machine
from orchestrator.ledger.store import Ledger, open_ledger
from orchestrator.providers.local import LocalProvider
from orchestrator.simulation.fuse import Fuse, fused
from policies.lifecycle import Status
from tests.orchestrator.forked import Forked
from tests.orchestrator.tiny import replicas, tiny

SPECS = {
    "local": "{name: ocr, model: ppocr, provider: local, local: {price_per_hour: 1.80}, door: {listen: 127.0.0.1:0}}",
    "simulated": "{name: ocr, model: ppocr, provider: simulated, simulated: {price_per_hour: 1.80, boot: 1s}, "
    "door: {listen: 127.0.0.1:0}}",
}


class QuickClock(SystemClock):
    """Does not sleep for long: a tick follows the other."""

    def sleep(self, seconds: float) -> None:
        super().sleep(min(seconds, 0.1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("--no-wait", action="store_true")
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--die", default="")
    parser.add_argument("--down", action="store_true")  # not before it is taken down
    parser.add_argument("--signal", type=int, default=signal.SIGKILL)
    parser.add_argument("--market", default="")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)

    def die(number: int, name: str) -> None:
        if name == options.die and not (options.down and is_up(ledger)):
            os.kill(os.getpid(), options.signal)

    def open_one(home: Path, clock: SystemClock, ledger: Ledger, row: Deployment) -> Running:
        running = open_running(home, clock, ledger, row)
        if "local" in running.world.providers:
            provider = LocalProvider(home, clock, local_offer(running.spec), tiny())
            running.world = replace(running.world, providers={"local": provider})
        if options.market:
            from tests.orchestrator.market_http import HttpMarket  # which most need not load

            rented = HttpMarket(options.market)
            running.world = replace(running.world, providers={"simulated": rented}, probes=rented)
        running.world = fused(running.world, Fuse(die))
        return running

    for number in (signal.SIGTERM, signal.SIGINT):  # a daemon that has left is at its end: what still comes is too late
        signal.signal(number, signal.SIG_IGN)
    clock = SystemClock() if options.slow else QuickClock()
    try:
        ledger = open_ledger(options.home)
        Daemon(options.home, ledger, clock, open_one).run(wait=not options.no_wait)
    except Refused as refusal:
        sys.exit(f"halve: {refusal}")


@contextmanager
def daemon(home: Path, *options: str) -> Iterator[Forked]:
    """One in the background; its words go to `daemon.log`, and it ends with the block at the latest."""
    home.mkdir(exist_ok=True)
    process = Forked("tests.orchestrator.driven", home, *options, out=home / "daemon.log", folder=home)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def put_up(home: Path, kind: str = "local", text: str = "") -> Ledger:
    """A ledger that wants one deployment up."""
    ledger = open_ledger(home)
    with ledger.write() as tx:
        deployments.put_up(tx, "ocr", text or SPECS[kind], "ocr.yaml", datetime.now(UTC))
    return ledger


def take_down(ledger: Ledger) -> None:
    with ledger.write() as tx:
        deployments.take_down(tx, "ocr", datetime.now(UTC))


def is_up(ledger: Ledger) -> bool:
    with ledger.read() as tx:
        row = deployments.get(tx, "ocr")
    return row is not None and row.wanted == "up"


def machines(ledger: Ledger, *, over: bool = False) -> tuple[Machine, ...]:
    with ledger.read() as tx:
        return fleet.machines(tx, "ocr", over=over)


def ready(ledger: Ledger) -> list[Machine]:
    return [machine for machine in machines(ledger) if machine.status is Status.READY]


def running(home: Path, kind: str) -> int:
    """How many machines are really up: processes, or what the market's file says."""
    if kind == "local":
        return len(replicas(home))
    from orchestrator.providers.simulated import Conditions, SimulatedProvider

    return len(SimulatedProvider(SystemClock(), Conditions(offers=()), home / "simulated.json").running())
