"""A simulated market whose machines have bodies: each that has booted is a tiny replica, killed when its machine ends.

python -m tests.orchestrator.embodied market FOLDER --seed N --seconds S     the market
python -m tests.orchestrator.embodied daemon HOME --market URL --bodies FOLDER   a daemon that rents from it

What the daemon rents is simulated, and what its door talks to is not. Its local replicas are real engines.
"""

import argparse
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import uvicorn

from orchestrator.clock import SystemClock
from orchestrator.daemon import Daemon
from orchestrator.deployment import Running, open_running
from orchestrator.files import read_json, write_json
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.store import Ledger, open_ledger
from orchestrator.probes import HttpProbes
from orchestrator.providers import Listed, Priced, Request
from orchestrator.providers.simulated import Conditions, Outage, Rented, SimulatedProvider
from policies.snapshot import Offer
from tests.orchestrator.market_http import TERMS, HttpMarket, Keeper, application, offers
from tests.orchestrator.tiny import SCRIPT, until

BOOT_SECONDS = 1.0
NOTICE_SECONDS = 10.0
ZONES = 4
LOOK_SECONDS = 0.1
#: how often a zone of the market takes its spot machines back by itself, every other time with a notice
OUTAGE_SECONDS = 60.0


def conditions(seed: int, start: datetime, seconds: float) -> Conditions:
    """Spot and on-demand machines in a few zones; now and then a zone has no spot machines for a while."""
    drawn = random.Random(seed)
    outages, at = [], start + timedelta(seconds=NOTICE_SECONDS)
    while at < start + timedelta(seconds=seconds):
        at += timedelta(seconds=drawn.uniform(0.5, 1.5) * min(OUTAGE_SECONDS, seconds / 4))
        end = at + timedelta(seconds=drawn.uniform(10.0, 40.0))
        outages.append(Outage(zone=f"zone-{drawn.randrange(ZONES)}", start=at, end=end, notice=len(outages) % 2 == 0))
    return Conditions(
        offers=offers(ZONES, lambda zone: 1_000 * zone),
        boot_seconds=BOOT_SECONDS,
        notice_seconds=NOTICE_SECONDS,
        listed_after_end_seconds=60.0,
        outages=tuple(outages),
        terms=TERMS,
    )


class Bodies:
    """A process for every machine that runs."""

    def __init__(self, market: SimulatedProvider, folder: Path) -> None:
        self._market = market
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def keep(self, over: threading.Event) -> None:
        while not over.wait(LOOK_SECONDS):
            now = SystemClock().now()
            booted = {one.token for one in self._market.rented() if runs(one, now)}
            for token in self._processes.keys() - booted:
                process = self._processes.pop(token)
                process.kill()  # a machine that ends says no goodbye
                process.wait()
            for token in booted - self._processes.keys():
                announce = announced(self._folder, token)
                announce.parent.mkdir(exist_ok=True)
                command = [sys.executable, "-S", str(SCRIPT), str(announce), "slow"]
                self._processes[token] = subprocess.Popen(command)
        for process in self._processes.values():
            process.kill()
            process.wait()


def runs(machine: Rented, now: datetime) -> bool:
    booted_at = machine.launched_at + timedelta(seconds=BOOT_SECONDS)
    return machine.ended_at is None and machine.stopped_at is None and now >= booted_at


def announced(folder: Path, token: str) -> Path:
    return folder / token / "announce.json"


class EmbodiedMarket:
    """Implements Provider: the market's, but that machines have the addresses of their bodies."""

    name = HttpMarket.name
    listing_deadline_seconds = HttpMarket.listing_deadline_seconds
    terms = TERMS

    def __init__(self, url: str, folder: Path) -> None:
        self._market = HttpMarket(url)
        self._folder = folder

    def offers(self) -> Sequence[Offer]:
        return self._market.offers()

    def prices(self, since: datetime) -> Sequence[Priced] | None:
        return self._market.prices(since)

    def instances(self) -> Sequence[Listed]:
        return tuple(replace(one, url=self._address(one.token)) for one in self._market.instances())

    def launch(self, request: Request) -> str:
        return self._market.launch(request)

    def terminate(self, provider_id: str) -> None:
        self._market.terminate(provider_id)

    def _address(self, token: str) -> str | None:
        said = read_json(announced(self._folder, token))
        return str(said["url"]) if said else None


def be_market(folder: Path, seed: int, seconds: float) -> None:
    clock = SystemClock()
    market = SimulatedProvider(clock, conditions(seed, clock.now(), seconds))
    over = threading.Event()
    keeping = threading.Thread(target=Bodies(market, folder).keep, args=(over,))
    keeping.start()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        write_json(folder / "address", {"url": f"http://127.0.0.1:{listener.getsockname()[1]}", "pid": os.getpid()})
        uvicorn.Server(uvicorn.Config(application(market), log_level="warning")).run([listener])
    over.set()
    keeping.join()


def be_daemon(home: Path, market: str, bodies: Path) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    def open_one(home: Path, clock: SystemClock, ledger: Ledger, row: Deployment) -> Running:
        running = open_running(home, clock, ledger, row)
        if "simulated" in running.world.providers:
            rented = EmbodiedMarket(market, bodies)
            running.world = replace(running.world, providers={"simulated": rented}, probes=HttpProbes())
        return running

    Daemon(home, open_ledger(home), SystemClock(), open_one).run()


@contextmanager
def market(folder: Path, seed: int, seconds: float) -> Iterator[Keeper]:
    """One in the background, until the block ends."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.orchestrator.embodied", "market", str(folder)]
    process = subprocess.Popen([*command, "--seed", str(seed), "--seconds", str(seconds)])
    try:
        keeper = Keeper(process, until(lambda: read_json(folder / "address"), 60)["url"])
        yield keeper
        keeper.close()
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait()


def daemon(home: Path, market: str, bodies: Path) -> "subprocess.Popen[bytes]":
    """One in the background; its words go to `daemon.log`."""
    command = [sys.executable, "-m", "tests.orchestrator.embodied", "daemon", str(home)]
    with (home / "daemon.log").open("ab") as log:
        return subprocess.Popen([*command, "--market", market, "--bodies", str(bodies)], stdout=log, stderr=log)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("market", "daemon"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--market", default="")
    parser.add_argument("--bodies", type=Path)
    options = parser.parse_args()
    if options.what == "market":
        be_market(options.folder, options.seed, options.seconds)
    else:
        be_daemon(options.folder, options.market, options.bodies)


if __name__ == "__main__":
    main()
