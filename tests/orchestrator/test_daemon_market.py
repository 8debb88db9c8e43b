"""A real daemon is killed again and again at random moments, while the market that it rents from lives its own life.

The market is a process of its own behind HTTP: calls time out, are refused, and take effect although nobody heard so.
"""

import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator import billing
from orchestrator.holder import is_alive
from orchestrator.ledger import deployments, fleet, leases
from orchestrator.ledger.checks import check
from orchestrator.ledger.store import Ledger, open_ledger
from policies.lifecycle import OVER
from tests.orchestrator.driven import daemon
from tests.orchestrator.market_http import Keeper, market
from tests.orchestrator.scene import booked, rows
from tests.orchestrator.tiny import living, until

NAMES = ("ocr", "aside")
#: a maximum far above what is wanted, so that the runaway bound leaves room for a bad day every second
SPEC = """
name: {name}
model: ppocr
provider: simulated
simulated: {{price_per_hour: 1.80, spot_price_per_hour: 0.70, boot: 1s}}
engine: {{workers: {workers}}}
replicas: {{min: {least}, max: 60}}
spot: {{base_on_demand: 1}}
door: {{listen: "127.0.0.1:0"}}
"""


class Life:
    """What happens meanwhile, drawn from a seed: specs change, machines are lost, doors are held shut."""

    def __init__(self, ledger: Ledger, keeper: Keeper, seed: int) -> None:
        self._ledger = ledger
        self._keeper = keeper
        self._drawn = random.Random(seed)
        self.happened: list[str] = []

    def put_up(self, name: str) -> None:
        text = SPEC.format(name=name, workers=self._drawn.randint(1, 3), least=self._drawn.randint(2, 6))
        with self._ledger.write() as tx:
            deployments.put_up(tx, name, text, f"{name}.yaml", datetime.now(UTC))

    def take_down(self, name: str) -> None:
        with self._ledger.write() as tx:
            deployments.take_down(tx, name, datetime.now(UTC))

    def _hold(self, name: str) -> None:
        now = datetime.now(UTC)
        state = self._drawn.choice(("open", "closed", None))
        with self._ledger.write() as tx:
            until_ = now + timedelta(seconds=self._drawn.uniform(0.5, 3.0)) if state else None
            deployments.override(tx, name, state, until_, now)

    def _befall(self, what: str) -> None:
        running = self._keeper.running()
        if running:
            self._keeper.befall(what, self._drawn.choice(running))

    def step(self) -> None:
        name = self._drawn.choice(NAMES)
        what = self._drawn.choice(("spec", "down", "hold", "lose", "lose", "crash", "stop", "silence"))
        self.happened.append(what)
        match what:
            case "spec":
                self.put_up(name)
            case "down":
                self.take_down(name)
                self.put_up(next(one for one in NAMES if one != name))  # one is always wanted
            case "hold":
                self._hold(name)
            case "silence":
                with self._keeper.silence():
                    threading.Event().wait(self._drawn.uniform(0.1, 1.5))
            case _:
                self._befall(what)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        over = threading.Event()
        wrong: list[BaseException] = []

        def live() -> None:
            try:
                while not over.wait(self._drawn.uniform(0.1, 0.9)):
                    self.step()
            except BaseException as error:
                wrong.append(error)

        thread = threading.Thread(target=live)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        assert not wrong, wrong


def killed(home: Path, ledger: Ledger, keeper: Keeper, drawn: random.Random) -> bool:
    """Start a daemon and kill it at a random moment. False when it had left by itself before.

    The moment is counted in what it has done, so that a slow machine kills no less busy daemons; now and then it comes
    while it still starts.
    """
    log = home / "daemon.log"
    with daemon(home, "--market", keeper.url) as process:
        acted, wanted = deeds(log), drawn.choice((0, 0, 1, 1, 2, 3, 5, 8))
        if drawn.random() < 0.85:
            with suppress(AssertionError):
                until(lambda: process.poll() is not None or acts(ledger, process.pid), 30)
                until(lambda: process.poll() is not None or deeds(log) >= acted + wanted, 1.5)
        with suppress(subprocess.TimeoutExpired):
            process.wait(drawn.uniform(0.0, 0.25))
        process.send_signal(signal.SIGKILL)
        return process.wait(60) == -signal.SIGKILL


def deeds(log: Path) -> int:
    """How many actions the daemons have decided so far."""
    return log.read_bytes().count(b"(instance_id=") + log.read_bytes().count(b"Launch(")


def acts(ledger: Ledger, pid: int) -> bool:
    with ledger.read() as tx:
        lease = leases.held(tx)
    return lease is not None and lease.pid == pid and is_alive(lease, datetime.now(UTC))


def troubles(ledger: Ledger, keeper: Keeper) -> list[str]:
    """What the ledger and the market do not agree on when all is over."""
    rented, meter = {one.token: one for one in keeper.rented()}, keeper.meter()
    with ledger.read() as tx:
        machines = fleet.machines(tx, over=True)
        found = [f"{name}: {words}" for name, all_ in check(tx).items() for words in all_]
    charges = booked(ledger)
    known = {machine.token for machine in machines}
    found += [f"{token} still runs" for token, one in rented.items() if one.ended_at is None]
    found += [f"{token} was rented, and the ledger knows nothing of it" for token in rented.keys() - known]
    found += [f"{one.id} is still {one.status}" for one in machines if one.status not in OVER]
    adopted = [one for one in rows(ledger, "intents") if one.reason.startswith("adopted")]
    found += [f"{one.instance_id} was launched, and nobody had decided so" for one in adopted]
    if len(known) != len(machines):
        found.append("two machines of the ledger bear one token")
    for machine in machines:
        parts = [billing.accrued(charge, datetime.now(UTC)) for charge in charges.get(machine.id, ())]
        cost, due = sum(part or 0 for part in parts), meter.get(machine.token, 0)
        if cost != due:
            found.append(f"{machine.id} ({machine.status}: {machine.reason}) is booked with {cost}, metered with {due}")
    return found


def lived_through(home: Path, folder: Path, *, kills: int, seed: int) -> None:
    """So many kills, then an end in order: nothing is left, and every micro-unit is in the ledger."""
    drawn = random.Random(seed)
    ledger = open_ledger(home)
    with market(folder, seed) as keeper:
        life = Life(ledger, keeper, seed)
        for name in NAMES:
            life.put_up(name)
        done = 0
        with life.going_on():
            while done < kills:
                done += killed(home, ledger, keeper, drawn)
        for name in NAMES:
            life.take_down(name)
        with daemon(home, "--market", keeper.url) as last:
            assert last.wait(200) == 0, (home / "daemon.log").read_text()[-3000:]
        until(lambda: not living(home), why="a door is left")
        rented = keeper.rented()
        print(f"{done} kills, {len(rented)} machines, {len(life.happened)} things that happened, seed {seed}")
        assert troubles(ledger, keeper) == []
        assert len(rented) >= kills // 2  # it was worth while
    ledger.close()


@pytest.mark.slow
def test_a_dozen_kills_at_random_moments_leave_nothing_behind(home: Path, tmp_path: Path) -> None:
    lived_through(home, tmp_path / "market", kills=12, seed=20261121)


@pytest.mark.soak
@pytest.mark.slow
def test_two_hundred_kills_at_random_moments_leave_nothing_behind(home: Path, tmp_path: Path) -> None:
    lived_through(home, tmp_path / "market", kills=200, seed=770123)
