"""Daemons: who may act, who waits, who leaves, and what they say of themselves."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from orchestrator.cli.daemon import METRICS
from orchestrator.clock import SystemClock
from orchestrator.daemon import Daemon, alarm_clock, notify_systemd
from orchestrator.deployment import open_running
from orchestrator.door.client import Door
from orchestrator.errors import Refused
from orchestrator.holder import identity, is_alive, is_dead
from orchestrator.ledger import deployments, leases
from orchestrator.ledger.leases import Lease
from orchestrator.ledger.store import Ledger, Stale, open_ledger
from orchestrator.processes import birth
from orchestrator.scheduler import tick
from orchestrator.status import status
from policies.lifecycle import Status
from tests.orchestrator.bent import Waylaid
from tests.orchestrator.driven import daemon, machines, put_up, ready, take_down
from tests.orchestrator.forked import Forked
from tests.orchestrator.receiver import Receiver
from tests.orchestrator.scene import NOW, Scene, rows
from tests.orchestrator.tiny import end_all, fill, living, replicas, small_disk, until

SPENT = """
name: ocr
model: ppocr
provider: simulated
currency: CNY
simulated: {{price_per_hour: 1.80, boot: 1s}}
door: {{listen: 127.0.0.1:0}}
budget: {{monthly: 0.0001 CNY, at: {{100%: warn}}}}
alerts: ["{url}"]
"""


def held(ledger: Ledger) -> Lease | None:
    with ledger.read() as tx:
        return leases.held(tx)


def holder(ledger: Ledger) -> int | None:
    """The pid of the daemon that may act and has ticked."""
    lease = held(ledger)
    if lease is None or lease.last_tick_at is None or not is_alive(lease, datetime.now(UTC)):
        return None
    return lease.pid


def log_of(home: Path) -> str:
    return (home / "daemon.log").read_text()


# in one process


def test_a_stale_daemons_tick_fails_before_it_does_anything(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "home")
    with scene.ledger.write() as tx:
        scene.ledger.generation = leases.take(tx, "first", 1, scene.clock.now() + timedelta(seconds=15))
    other = Ledger(scene.ledger.engine, scene.ledger.key)
    with other.write() as tx:
        other.generation = leases.take(tx, "second", 2, scene.clock.now() + timedelta(seconds=15))
    with pytest.raises(Stale, match="generation 1 is over"):
        tick(scene.world)
    assert (scene.market.rented(), scene.rows("intents"), scene.rows("ticks")) == ((), [], [])
    scene.ledger = other
    scene.tick()
    assert len(scene.market.rented()) == 1


def test_a_daemon_that_wakes_between_its_call_and_its_settlement_settles_nothing(tmp_path: Path) -> None:
    """It was stopped in the middle of a launch, and its successor has settled the machine meanwhile."""
    scene = Scene(tmp_path / "home")
    with scene.ledger.write() as tx:
        scene.ledger.generation = leases.take(tx, "first", 1, scene.clock.now() + timedelta(seconds=15))
    first = scene.ledger

    def succeed() -> None:
        scene.ledger = Ledger(first.engine, first.key)
        with scene.ledger.write() as tx:
            scene.ledger.generation = leases.take(tx, "second", 2, scene.clock.now() + timedelta(seconds=15))
        scene.provider = scene.market
        scene.run(30)

    scene.provider = Waylaid(scene.market, succeed)
    with pytest.raises(Stale):
        tick(scene.world)
    assert (len(scene.ready()), len(scene.market.rented())) == (1, 1)
    scene.settle()


def test_a_provider_that_the_spec_names_no_more_is_opened_until_its_machines_are_gone(tmp_path: Path) -> None:
    """Otherwise what was rented there would run on unseen."""
    scene = Scene(tmp_path / "home")
    scene.run(30)
    text = '{name: ocr, model: ppocr, provider: local, door: {listen: "127.0.0.1:0"}}'
    with scene.ledger.write() as tx:
        deployments.put_up(tx, "ocr", text, "ocr.yaml", NOW)
        row = deployments.get(tx, "ocr")
    assert row is not None
    running = open_running(scene.home, SystemClock(), scene.ledger, row)
    assert list(running.world.providers) == ["local", "simulated"]
    assert running.world.policy(NOW).providers == ("local",)
    running.close()
    scene.settle()
    running = open_running(scene.home, SystemClock(), scene.ledger, row)
    assert list(running.world.providers) == ["local"]
    running.close()


def test_a_pid_that_was_given_out_again_is_not_the_daemon() -> None:
    host, pid, started = identity().rsplit(":", 2)
    assert not is_dead(identity())
    assert is_dead(f"{host}:{pid}:{started}0")
    assert is_dead(f"{host}:{4_000_000}:{started}")
    assert not is_dead(f"elsewhere:{pid}:{started}0")  # another host's processes are not known


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    born = birth(child.pid)
    assert born is not None
    assert born == birth(child.pid)
    owner = f"{socket.gethostname()}:{child.pid}:{born}"
    assert not is_dead(owner)
    child.kill()
    until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE)
    assert is_dead(owner)
    child.wait()
    assert (birth(child.pid), is_dead(owner)) == (None, True)
    assert child.stdin is not None
    child.stdin.close()


def test_the_birth_of_a_process_does_not_depend_on_the_clock() -> None:
    """psutil's start time moves with the system's clock; ours is counted from the boot."""
    boot, _, ticks = str(birth(os.getpid())).rpartition("-")
    since_boot = int(ticks) / os.sysconf("SC_CLK_TCK")
    assert len(boot) == 8
    assert abs(since_boot + psutil.boot_time() - psutil.Process().create_time()) < 2


def test_systemd_is_told(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        os.environ["NOTIFY_SOCKET"] = address
        try:
            notify_systemd("READY=1")
        finally:
            del os.environ["NOTIFY_SOCKET"]
        assert channel.recv(100) == b"READY=1"
    notify_systemd("READY=1")  # without systemd nothing happens


def test_an_alarm_that_is_late_still_comes_and_comes_once() -> None:
    """The machine slept over a window's edge, or the process was stopped: by default such a job would be dropped."""
    came: list[datetime] = []
    alarm = alarm_clock()
    alarm.start(paused=True)
    try:
        alarm.add_job(lambda: came.append(datetime.now(UTC)), "date", run_date=datetime.now(UTC) - timedelta(hours=3))
        often = {"start_date": datetime.now(UTC) - timedelta(hours=3), "seconds": 600}
        missed: list[datetime] = []
        job = alarm.add_job(lambda: missed.append(datetime.now(UTC)), "interval", **often)
        job.modify(next_run_time=datetime.now(UTC) - timedelta(hours=3))  # eighteen of them
        alarm.resume()
        until(lambda: came and missed)
        assert (len(came), len(missed)) == (1, 1)
        assert str(alarm.timezone) == "UTC"
    finally:
        alarm.shutdown()


def test_the_alarm_is_set_to_the_next_edge_and_moves_with_it(home: Path) -> None:
    """Only in memory: a restart sets it anew from the spec."""
    text = "{name: ocr, model: ppocr, provider: simulated, simulated: {price_per_hour: 1.80}, "
    text += "schedule: {timezone: Asia/Shanghai, windows: ['Mon-Fri 08:00-20:00']}, door: {listen: '127.0.0.1:0'}}"
    ledger = put_up(home, text=text)
    alarm = alarm_clock()
    alarm.start(paused=True)
    try:
        Daemon(home, ledger, SetSystemClock(datetime(2026, 11, 20, 1, tzinfo=UTC)))._ticked(alarm)
        assert alarm.get_job("ocr").next_run_time == datetime(2026, 11, 20, 12, tzinfo=UTC)
        Daemon(home, ledger, SetSystemClock(datetime(2026, 11, 20, 12, tzinfo=UTC)))._ticked(alarm)
        edge = alarm.get_job("ocr").next_run_time
        assert datetime(2026, 11, 22, 23, 30, tzinfo=UTC) < edge <= datetime(2026, 11, 23, 0, tzinfo=UTC)  # pre-warmed
        assert len(alarm.get_jobs()) == 1
    finally:
        alarm.shutdown()
        ledger.close()


class SetSystemClock(SystemClock):
    """Stands still at a moment."""

    def __init__(self, at: datetime) -> None:
        super().__init__()
        self._at = at

    def now(self) -> datetime:
        return self._at


# real processes


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    opened = open_ledger(home)
    yield opened
    opened.close()


@pytest.mark.slow
def test_the_second_waits_and_says_so_and_takes_over_at_once_when_the_first_is_killed(
    home: Path, ledger: Ledger
) -> None:
    put_up(home)
    with daemon(home) as first, daemon(home) as second:
        until(lambda: ready(ledger) and holder(ledger))
        acting, waiting = (first, second) if holder(ledger) == first.pid else (second, first)
        until(lambda: "waiting" in log_of(home))
        assert f":{acting.pid}:" in log_of(home)
        (replica,) = replicas(home)
        generation = held(ledger).generation  # type: ignore[union-attr]
        until(lambda: stopped_at_rest(acting, home))
        with ledger.write() as tx:  # so long that nobody here waits for its end
            leases.renew(tx, datetime.now(UTC) + timedelta(hours=1))
        acting.kill()
        acting.wait()
        until(lambda: holder(ledger) == waiting.pid)
        assert held(ledger).generation == generation + 1  # type: ignore[union-attr]
        assert replicas(home) == [replica]  # adopted, not replaced
        take_down(ledger)
        assert waiting.wait(120) == 0


@contextmanager
def metrics_port_taken() -> Iterator[None]:
    """Nobody else can listen where a daemon's metrics are: it is ours, or, until it leaves, another daemon's."""
    ours, over = threading.Event(), threading.Event()

    def take() -> None:
        while not over.wait(0.01):
            with suppress(OSError), socket.create_server(("127.0.0.1", int(METRICS.rpartition(":")[2]))):
                ours.set()
                over.wait()

    taking = threading.Thread(target=take)
    taking.start()
    try:
        ours.wait(20)
        yield
    finally:
        over.set()
        taking.join()


def test_no_wait_is_one_clear_line_and_exit_1(home: Path, ledger: Ledger) -> None:
    with ledger.write() as tx:
        leases.take(tx, identity(), os.getpid(), datetime.now(UTC) + timedelta(seconds=60))
    command = [sys.executable, "-m", "orchestrator", "daemon", "--no-wait"]
    environment = {**os.environ, "HALVE_HOME": str(home), "HALVE_METRICS": METRICS}
    with metrics_port_taken():
        said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert said.returncode == 1
    (line,) = said.stderr.splitlines()
    assert line.startswith(f"halve: daemon {identity()} holds the lease of this ledger until ")


def test_who_acts_says_once_that_somebody_else_has_the_port_of_its_metrics(home: Path, ledger: Ledger) -> None:
    command = [sys.executable, "-m", "orchestrator", "daemon"]
    environment = {**os.environ, "HALVE_HOME": str(home), "HALVE_METRICS": METRICS}
    with (
        metrics_port_taken(),
        (home / "daemon.log").open("w") as log,
        subprocess.Popen(command, env=environment, stderr=log) as process,
    ):
        try:
            until(lambda: f"metrics: {METRICS}: " in log_of(home))
            until(lambda: holder(ledger) == process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    lease, _, said = log_of(home).partition("lease taken")
    assert "metrics:" not in lease and said.count("metrics:") == 1


@pytest.mark.slow
def test_a_stopped_daemon_that_wakes_after_it_was_succeeded_leaves_the_field(home: Path, ledger: Ledger) -> None:
    put_up(home)
    with daemon(home, "--slow") as first, daemon(home) as second:
        until(lambda: ready(ledger) and holder(ledger))
        if holder(ledger) == second.pid:
            first, second = second, first
        until(lambda: stopped_at_rest(first, home))
        with ledger.write() as tx:
            leases.give_up(tx, datetime.now(UTC))  # as if its lease had run out
        until(lambda: holder(ledger) == second.pid)
        generation = held(ledger).generation  # type: ignore[union-attr]
        first.send_signal(signal.SIGCONT)
        assert first.wait(120) == 0
        assert "another daemon took over" in log_of(home)
        assert (held(ledger).generation, holder(ledger)) == (generation, second.pid)  # type: ignore[union-attr]
        assert len(replicas(home)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_tick_and_lets_the_next_one_in_at_once(
    home: Path, ledger: Ledger, number: signal.Signals
) -> None:
    """However often it is sent: a handler that takes locks would hang here."""
    put_up(home)
    with daemon(home, "--slow") as process:
        until(lambda: ready(ledger))
        for _ in range(200):
            process.send_signal(number)
        assert process.wait(120) == 0
    lease = held(ledger)
    assert lease is not None
    assert lease.expires_at <= datetime.now(UTC)
    assert len(replicas(home)) == 1  # replicas and doors go on
    assert Door(home, "ocr").running() is not None
    assert not [row for row in rows(ledger, "intents") if row.state == "open"]


def test_a_signal_in_the_middle_of_a_launch_lets_it_be_settled(home: Path, ledger: Ledger) -> None:
    """The tick is finished: the machine that was asked for is known, and nothing new is begun."""
    put_up(home, "simulated")
    with daemon(home, "--die", "before launching", "--signal", str(int(signal.SIGTERM))) as process:
        assert process.wait(120) == 0
    (machine,) = machines(ledger)
    assert (machine.status, machine.provider_id) == (Status.BOOTING, f"m-{machine.token}")
    assert [(row.kind, row.state) for row in rows(ledger, "intents")] == [("launch", "done")]
    lease = held(ledger)
    assert lease is not None
    assert lease.last_tick_at is not None
    assert lease.expires_at <= datetime.now(UTC)  # the next one need not wait


def test_systemd_hears_when_it_acts_when_it_stands_by_and_when_it_leaves(home: Path, ledger: Ledger) -> None:
    put_up(home, "simulated")
    address = home / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(address))
        channel.settimeout(120)
        os.environ["NOTIFY_SOCKET"] = str(address)
        try:
            with daemon(home) as first:
                assert channel.recv(1000) == b"READY=1\nSTATUS=acting"
                assert held(ledger).pid == first.pid  # type: ignore[union-attr]
                with daemon(home) as second:
                    words = channel.recv(1000).decode()
                    assert words.startswith(f"READY=1\nSTATUS=waiting: daemon {socket.gethostname()}:{first.pid}:")
                    first.send_signal(signal.SIGTERM)
                    assert channel.recv(1000) == b"STOPPING=1"
                    assert channel.recv(1000) == b"READY=1\nSTATUS=acting"
                    assert held(ledger).pid == second.pid  # type: ignore[union-attr]
        finally:
            del os.environ["NOTIFY_SOCKET"]


@pytest.mark.slow
def test_ticks_that_fail_are_counted_and_shown_and_the_others_go_on(home: Path, ledger: Ledger) -> None:
    put_up(home)
    with ledger.write() as tx:
        deployments.put_up(tx, "broken", "{name: broken, model: ppocr, provider: moon}", "b.yaml", datetime.now(UTC))
    with daemon(home):
        until(lambda: ready(ledger))
        until(lambda: (held(ledger) or pytest.fail("no lease")).tick_errors >= 3)
        said = status(home, ledger, datetime.now(UTC))
        assert said["daemon"]["tick_errors"] >= 3
        assert "broken: " in said["daemon"]["last_error"]
        assert "moon" in said["daemon"]["last_error"]
        names = [one["name"] for one in said["deployments"]]
        assert names == ["broken", "ocr"]


@pytest.mark.slow
def test_whoever_asked_for_it_is_told_that_the_budget_is_spent(home: Path, ledger: Ledger) -> None:
    pytest.importorskip("apprise")
    receiver = Receiver()
    try:
        put_up(home, text=SPENT.format(url=receiver.url))
        with daemon(home):
            until(lambda: ready(ledger))
        with daemon(home):  # the first look of the first was before anything was spent, the next is a minute later
            until(lambda: any("budget" in one["title"] or "spent: warn" in one["message"] for one in receiver.got))
    finally:
        receiver.close()


@pytest.mark.slow
def test_it_leaves_with_its_last_deployment_whatever_older_ones_say(home: Path, ledger: Ledger) -> None:
    """A spec that this version no longer understands does not keep a daemon from leaving."""
    put_up(home, "simulated")
    with ledger.write() as tx:
        deployments.put_up(tx, "older", "{name: older, model: ppocr, provider: moon}", "o.yaml", datetime.now(UTC))
        deployments.take_down(tx, "older", datetime.now(UTC))
    with daemon(home) as process:
        until(lambda: ready(ledger))
        take_down(ledger)
        assert process.wait(60) == 0
    until(lambda: not living(home), why="something is left")


@pytest.mark.slow
def test_without_its_door_it_goes_on_and_says_so(home: Path, ledger: Ledger) -> None:
    """The port is taken after the fact: machines are still looked after, and ended when the deployment goes down."""
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        put_up(home, text=f"{{name: ocr, model: ppocr, provider: local, door: {{listen: '127.0.0.1:{port}'}}}}")
        with daemon(home) as process:
            until(lambda: ready(ledger))
            said = until(lambda: (held(ledger) or pytest.fail("no lease")).last_error)
            assert f"port {port} on 127.0.0.1 is taken" in said
            take_down(ledger)
            assert process.wait(120) == 0
    assert machines(ledger) == ()
    until(lambda: not living(home), why="something is left")


@contextmanager
def locked(home: Path, patience_seconds: float = 10.0) -> Iterator[None]:
    """Somebody else writes to the ledger, and does not end."""
    connection = sqlite3.connect(home / "halve.db", isolation_level=None, timeout=patience_seconds)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def stopped_at_rest(process: Forked, home: Path) -> bool:
    """Stop a daemon, but not in the middle of a transaction: SQLite would let nobody else write."""
    process.send_signal(signal.SIGSTOP)
    try:
        with locked(home, 0.1):
            return True
    except sqlite3.OperationalError:
        process.send_signal(signal.SIGCONT)
        return False


@pytest.mark.slow
def test_a_ledger_that_is_locked_for_long_does_not_end_the_daemon(home: Path, ledger: Ledger) -> None:
    put_up(home)
    with daemon(home) as process:
        until(lambda: ready(ledger))
        with locked(home):
            until(lambda: "database is locked" in log_of(home), 120)
        assert process.poll() is None
        before = held(ledger).last_tick_at  # type: ignore[union-attr]
        until(lambda: (held(ledger).last_tick_at or before) > before)  # type: ignore[union-attr, operator]
        said = until(lambda: status(home, ledger, datetime.now(UTC))["daemon"])
        assert said["tick_errors"] >= 1  # what could not be written then is said now
        assert "database is locked" in said["last_error"]
        assert len(ready(ledger)) == 1


@pytest.mark.slow
def test_a_disk_that_fills_up_does_not_end_the_daemon_and_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        home = disk / "home"
        home.mkdir()
        (home / "daemon.log").symlink_to(tmp_path / "daemon.log")
        ledger = put_up(home)
        try:
            with daemon(home) as process:
                until(lambda: ready(ledger))
                (replica,) = replicas(home)
                filler = fill(disk)
                replica.kill()  # something has to be written down, and cannot be
                until(lambda: replica not in replicas(home))
                until(lambda: "nothing was lost" in log_of(home) or "No space left" in log_of(home))
                assert process.poll() is None
                filler.unlink()
                until(lambda: replicas(home) and ready(ledger))
                take_down(ledger)
                assert process.wait(60) == 0
            assert [row.ended_at is None for row in rows(ledger, "charges")] == [False, False]
        finally:
            end_all(home)
            ledger.close()


def test_a_ledger_cannot_be_opened_twice_at_the_first_time_with_two_schemas(tmp_path: Path) -> None:
    """Many processes meet on a fresh home; each gets the same installation."""
    found: list[object] = []

    def open_one() -> None:
        try:
            opened = open_ledger(tmp_path / "home")
            found.append((opened.installation_id(), opened.key))
        except Refused as refusal:
            found.append(refusal)

    threads = [threading.Thread(target=open_one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1, found


def test_sleep_ends_when_it_is_woken() -> None:
    clock = SystemClock()
    threading.Timer(0.05, clock.wake).start()
    before = datetime.now(UTC)
    clock.sleep(200)
    assert datetime.now(UTC) - before < timedelta(seconds=100)
