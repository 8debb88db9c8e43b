"""`halve up`, `down`, `status`, `why`, `override` and `daemon` as a person types them, in real processes."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import sqlalchemy as sa

from orchestrator.control import check, ensure_daemon, without_effect
from orchestrator.door.limits import Limits
from orchestrator.errors import Refused
from orchestrator.holder import identity
from orchestrator.ledger import deployments, leases
from orchestrator.ledger.store import Ledger, open_ledger
from orchestrator.spec import parse
from tests.orchestrator.forked import completed
from tests.orchestrator.ports import free_port
from tests.orchestrator.scene import rows
from tests.orchestrator.tiny import fill, living, replicas, small_disk, until

INVOICE = Path(__file__).resolve().parents[1] / "pages" / "invoice.png"
SIMULATED = """
name: ocr
model: ppocr
provider: simulated
simulated: {price_per_hour: 1.80, boot: %s}
door: {listen: "127.0.0.1:0"}
"""


def halve(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return completed("orchestrator.cli", *arguments, environment={**os.environ, "HALVE_HOME": str(home), **environment})


def done(said: subprocess.CompletedProcess[str]) -> str:
    assert said.returncode == 0, said.stderr
    return said.stdout


def refused(said: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal."""
    assert (said.returncode, said.stdout) == (1, ""), said
    (line,) = said.stderr.splitlines()
    assert line.startswith("halve: ")
    return line


def all_gone(home: Path) -> None:
    """A door that let go of its lock may still be on its way out."""
    until(lambda: not living(home), why="something is left")


def status(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done(halve(home, "status", "--json")))
    return found


LOCAL = '{name: ocr, model: ppocr, provider: local, door: {listen: "127.0.0.1:0"}}'


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "ocr.yaml"
    path.write_text(SIMULATED % "1s")
    return path


def read_invoice(url: str) -> httpx.Response:
    with INVOICE.open("rb") as image:
        return httpx.post(f"{url}/v1/ocr", files={"file": ("invoice.png", image)}, timeout=60, trust_env=False)


def read_or_held(url: str) -> httpx.Response | None:
    """The answer, or None when the door has had no replica for as long as it holds a request."""
    began = time.monotonic()
    answer = read_invoice(url)
    if answer.status_code == 503 and time.monotonic() - began > Limits().hold - 1:
        return None
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.slow
def test_the_main_job(home: Path, tmp_path: Path) -> None:
    """Up, read, the engine killed, the daemon killed, closed by hand, open again, down: with the real engine."""
    pytest.importorskip("onnxruntime")
    spec = tmp_path / "daytime.yaml"
    spec.write_text(
        "{name: daytime, model: ppocr, provider: local, currency: CNY, local: {price_per_hour: 1.80, gpu: RTX 3060}, "
        f"door: {{listen: '127.0.0.1:{free_port()}'}}}}"
    )
    assert "daytime serves at http://127.0.0.1:" in done(halve(home, "up", str(spec)))
    (shown,) = status(home)["deployments"]
    url = shown["door"]
    assert (shown["open"], shown["target"], shown["spend"]["currency"]) == (True, 1, "CNY")
    assert [(one["gpu"], one["status"]) for one in shown["instances"]] == [("RTX 3060", "ready")]
    assert "发票" in read_invoice(url).json()["recognized_text"]

    (engine,) = replicas(home)
    engine.kill()
    engine.wait(120)
    again = until(partial(read_or_held, url))  # held at the door until the next one serves
    assert "发票" in again.json()["recognized_text"]
    (engine,) = replicas(home)

    daemon = psutil.Process(status(home)["daemon"]["pid"])
    daemon.kill()
    until(lambda: not daemon.is_running() or daemon.status() == psutil.STATUS_ZOMBIE)
    assert status(home)["daemon"] is None
    assert read_invoice(url).status_code == 200  # serving goes on
    assert url in done(halve(home, "up", str(spec)))
    assert replicas(home) == [engine]  # adopted

    why = json.loads(done(halve(home, "why", "daytime", "--json")))
    assert [action["kind"] for one in why for action in one["actions"]].count("launch") == 2

    until_then = (datetime.now(UTC) + timedelta(hours=2)).strftime("%Y-%m-%d %H:%M")
    done(halve(home, "override", "daytime", "closed", "--until", until_then))
    until(lambda: read_invoice(url).status_code == 503)
    closed = read_invoice(url)
    assert closed.json()["opens_at"].startswith(until_then.replace(" ", "T"))
    assert 7000 < int(closed.headers["Retry-After"]) <= 7260
    until(lambda: not replicas(home))

    done(halve(home, "override", "daytime", "none"))
    assert "serves at" in done(halve(home, "up", str(spec)))
    assert done(halve(home, "down", "daytime")) == "daytime is down\n"
    all_gone(home)
    charges = rows(open_ledger(home), "charges")
    assert len(charges) == 3
    assert all(row.ended_at is not None and row.price_per_hour_micros == 1_800_000 for row in charges)
    assert refused(halve(home, "up", str(tmp_path / "nowhere.yaml"))).endswith("no such file")


@pytest.mark.slow
def test_two_who_come_up_at_once_share_one_daemon(home: Path, spec: Path) -> None:
    with ThreadPoolExecutor(3) as threads:
        said = list(threads.map(lambda _: halve(home, "up", str(spec)), range(3)))
    assert [one.returncode for one in said] == [0, 0, 0], said
    until(lambda: len(daemons(home)) == 1)  # those who came too late may still be on their way out
    assert len(rows(open_ledger(home), "instances")) == 1
    done(halve(home, "down", "ocr"))
    all_gone(home)


def daemons(home: Path) -> list[psutil.Process]:
    found = []
    for process in living(home):
        with suppress(psutil.Error):
            if "daemon" in process.cmdline():
                found.append(process)
    return found


class Paused(Ledger):
    """Who has read it twice is stopped, until somebody else is the daemon and another one has left for that."""

    def __init__(self, opened: Ledger) -> None:
        super().__init__(opened.engine, opened.key)
        self.reads = 0

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        with super().read() as tx:
            yield tx
        self.reads += 1
        if self.reads == 2:
            with self.write() as tx:
                leases.take(tx, identity(), os.getpid(), datetime.now(UTC) + timedelta(hours=1))
            home = Path(str(self.engine.url.database)).parent
            until(lambda: not living(home))


def test_whoever_is_slow_takes_a_daemon_that_came_too_late_for_no_failure(home: Path) -> None:
    """Two came up at once: ours left, after we had looked for a lease, for that of the other."""
    ledger = Paused(open_ledger(home))
    assert ensure_daemon(home, ledger, lambda words: None) is None
    assert ledger.reads == 3
    ledger.close()


@pytest.mark.slow
def test_down_of_what_is_down_starts_nothing_and_up_again_is_a_new_machine(home: Path, spec: Path) -> None:
    done(halve(home, "up", str(spec)))
    done(halve(home, "down", "ocr"))
    said = halve(home, "down", "ocr")
    assert (said.returncode, said.stderr) == (0, "")
    all_gone(home)
    done(halve(home, "up", str(spec)))
    assert [row.status for row in rows(open_ledger(home), "instances")] == ["ended", "ready"]
    done(halve(home, "down", "ocr"))


@pytest.mark.slow
def test_simulated_money_is_marked_and_no_real_money_joins_it(home: Path, spec: Path) -> None:
    done(halve(home, "up", str(spec)))
    assert "SIMULATED" in done(halve(home, "report"))
    spec.write_text(LOCAL)
    assert "give it a HALVE_HOME of its own" in refused(halve(home, "up", str(spec)))
    done(halve(home, "down", "ocr"))
    assert open_ledger(home).simulated()


@pytest.mark.slow
def test_ctrl_c_leaves_the_daemon_at_work_and_says_so(home: Path, spec: Path) -> None:
    spec.write_text(SIMULATED % "1h")
    command = [sys.executable, "-m", "orchestrator", "up", str(spec)]
    environment = {**os.environ, "HALVE_HOME": str(home)}
    waiting = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert waiting.stderr is not None
    for line in waiting.stderr:
        if "starting: " in line:
            break
    waiting.send_signal(signal.SIGINT)
    rest = waiting.stderr.read()
    assert waiting.wait(120) == 130
    assert "the daemon goes on" in rest
    assert "Traceback" not in rest
    waiting.stderr.close()
    assert status(home)["daemon"] is not None
    done(halve(home, "down", "ocr"))
    all_gone(home)


# wrong input: one line, exit code 1, nothing started


def nothing_started(home: Path) -> bool:
    return living(home) == [] and not (home / "daemon.log").exists()


def test_a_wrong_spec_lists_every_error_and_starts_nothing(home: Path, spec: Path) -> None:
    spec.write_text("{name: OCR!, model: ppocr, provider: locl, replicas: {min: 3, max: 1}, shedule: {}}")
    said = halve(home, "up", str(spec))
    assert (said.returncode, said.stdout) == (1, "")
    for word in ("name", "provider", "replicas", "shedule"):
        assert word in said.stderr
    assert "Traceback" not in said.stderr
    assert nothing_started(home)
    assert rows(open_ledger(home), "deployments") == []


def test_simulated_money_never_joins_real_money(home: Path, spec: Path) -> None:
    with open_ledger(home).write() as tx:
        deployments.put_up(tx, "real", LOCAL, "real.yaml", datetime.now(UTC))
    assert "give it a HALVE_HOME of its own" in refused(halve(home, "up", str(spec)))
    assert nothing_started(home)
    assert [row.name for row in rows(open_ledger(home), "deployments")] == ["real"]
    assert not open_ledger(home).simulated()


def test_a_spec_is_simulated_or_real(home: Path, spec: Path) -> None:
    spec.write_text((SIMULATED % "1s").replace("provider: simulated", "provider: [simulated, local]"))
    assert "provider: simulated and real money never mix" in refused(halve(home, "up", str(spec)))
    assert rows(open_ledger(home), "deployments") == []


def test_a_taken_port_is_said_before_anything_is_started(home: Path, spec: Path) -> None:
    import socket

    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        spec.write_text((SIMULATED % "1s").replace('"127.0.0.1:0"', f'"127.0.0.1:{port}"'))
        assert f"door.listen: 127.0.0.1:{port}: Address already in use" in refused(halve(home, "up", str(spec)))
    assert nothing_started(home)
    assert rows(open_ledger(home), "deployments") == []


@pytest.mark.slow
def test_moving_to_a_taken_port_leaves_the_door_where_it_is(home: Path, spec: Path) -> None:
    import socket

    done(halve(home, "up", str(spec)))
    before = status(home)["deployments"][0]["door"]
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        spec.write_text((SIMULATED % "1s").replace('"127.0.0.1:0"', f'"127.0.0.1:{port}"'))
        assert "Address already in use" in refused(halve(home, "up", str(spec)))
    assert status(home)["deployments"][0]["door"] == before
    done(halve(home, "down", "ocr"))


def test_a_ledger_of_a_newer_version_is_left_alone(home: Path, spec: Path) -> None:
    open_ledger(home).close()
    with sqlite3.connect(home / "halve.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = (home / "halve.db").read_bytes()
    for command in (("up", str(spec)), ("status",), ("daemon",)):
        assert "written by a newer halve (schema 9999)" in refused(halve(home, *command))
    assert (home / "halve.db").read_bytes() == before


def test_a_ledger_that_is_none_is_said(home: Path) -> None:
    (home / "halve.db").write_text("this is a letter, not a database, and it is longer than a header" * 20)
    assert f"ledger {home / 'halve.db'}: file is not a database" in refused(halve(home, "status"))


def test_a_home_that_is_a_file_or_cannot_be_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for home in (file, file / "below", Path("/sys/halve"), Path("/dev/null/halve")):
        assert f"HALVE_HOME {home}: " in refused(halve(home, "status"))


@pytest.mark.parametrize("url", ["nonsense", "oracle9://x/y", "sqlite:////nowhere/at/all/halve.db"])
def test_a_database_url_that_leads_nowhere(home: Path, url: str) -> None:
    assert "ledger" in refused(halve(home, "status", HALVE_DATABASE_URL=url))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("down", "nobody"), "no deployment is called nobody; there are: none yet"),
        (("why", "nobody"), "no deployment is called nobody; there are: none yet"),
        (("override", "nobody", "open", "--until", "22:00"), "no deployment is called nobody"),
    ],
)
def test_a_deployment_that_is_not_there(home: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in refused(halve(home, *arguments))
    assert nothing_started(home)


def test_wrong_usage_is_exit_code_2(home: Path) -> None:
    for arguments in (("up",), ("override", "ocr", "ajar"), ("nonsense",), ("status", "--what")):
        said = halve(home, *arguments)
        assert (said.returncode, "Traceback" in said.stderr) == (2, False)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, spec: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        home = disk / "home"
        open_ledger(home).close()
        filler = fill(disk)
        line = refused(halve(home, "up", str(spec)))
        assert "disk" in line or "space" in line
        assert living(home) == []
        filler.unlink()
        ledger = open_ledger(home)
        assert rows(ledger, "instances") == []
        ledger.close()


def test_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        line = refused(halve(disk / "home", "status"))
        assert "disk" in line or "space" in line


def test_nothing_runs_and_status_says_so(home: Path) -> None:
    assert status(home) == {"daemon": None, "backed_up_at": None, "deployments": []}
    assert done(halve(home, "status")) == "no daemon is running; `halve up SPEC` starts one\n"


def test_a_way_to_tell_that_is_none_is_refused_before_anything_starts(home: Path) -> None:
    pytest.importorskip("apprise")
    text = "{name: ocr, model: ppocr, provider: simulated, alerts: ['nosuchservice://token-of-mine']}"
    with pytest.raises(Refused, match="nosuchservice") as refused:
        check(parse(text, "ocr.yaml"), home)
    assert "token-of-mine" not in str(refused.value)


def test_keys_without_effect_are_said_aloud() -> None:
    text = """
name: ocr
model: ppocr
provider: simulated
spot: {policy: hazard, guard: true}
simulated: {preemptions_per_day: 2}
"""
    said = without_effect(parse(text, "ocr.yaml"))
    assert [line.split(" ")[0] for line in said] == ["simulated.preemptions_per_day"]
    assert without_effect(parse("{name: ocr, model: ppocr, provider: local}", "ocr.yaml")) == ()


def test_a_policy_for_spot_that_there_is_not_is_refused(tmp_path: Path) -> None:
    wanted = parse("{name: ocr, model: ppocr, provider: simulated, spot: {policy: best}}", "ocr.yaml")
    with pytest.raises(Refused, match=r"spot\.policy: best .* use hazard or spothedge"):
        check(wanted, tmp_path)
