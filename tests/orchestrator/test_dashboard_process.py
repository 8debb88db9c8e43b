"""The dashboard's process: as a person starts it, and as a daemon does."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest

from orchestrator.dashboard.process import Starter, lock_file, log_file
from orchestrator.door.process import held
from orchestrator.doorway import HttpDoor
from orchestrator.ledger import deployments
from orchestrator.ledger.store import open_ledger
from orchestrator.spec import parse
from tests.orchestrator.ports import free_port
from tests.orchestrator.tiny import end_all, living, until

SPEC = """
name: {name}
model: ppocr
provider: simulated
simulated: {{price_per_hour: 1.80}}
door: {{listen: "127.0.0.1:0"}}
dashboard: {{listen: "127.0.0.1:{port}", actions: {actions}}}
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    end_all(tmp_path)


def put_up(home: Path, port: int, name: str = "ocr", actions: str = "false") -> str:
    text = SPEC.format(name=name, port=port, actions=actions)
    ledger = open_ledger(home)
    with ledger.write() as tx:
        deployments.put_up(tx, name, text, f"{name}.yaml", datetime.now(UTC))
    ledger.close()
    return text


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False, timeout=60).text == "ok\n"
    except httpx.HTTPError:
        return False


def gone(home: Path) -> bool:
    return not held(lock_file(home))


def test_a_person_starts_it_without_a_daemon_and_ends_it(home: Path) -> None:
    command = [sys.executable, "-m", "orchestrator", "dashboard", "--listen", "127.0.0.1:0"]
    environment = {**os.environ, "HALVE_HOME": str(home)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as it:
        assert it.stdout is not None
        said = it.stdout.readline()
        url, token = said.removeprefix("dashboard: ").split(", its token: ")
        assert token.strip() == str(home / "dashboard.token")
        page = httpx.get(f"{url}/login", trust_env=False, timeout=60)
        assert page.status_code == 200 and "Token" in page.text
        secret = {"token": Path(token.strip()).read_text()}
        with httpx.Client(base_url=url, trust_env=False, follow_redirects=True, timeout=60) as browser:
            assert "nothing costs money" in until(lambda: _settled(browser.post("/login", data=secret).text))
        it.send_signal(signal.SIGINT)
        assert it.wait(60) == 130


def _settled(page: str) -> str | None:
    return None if "looking …" in page else page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--listen", "0.0.0.0:7870"), "on loopback alone"),
        (("--ledger", "none.db"), "no such file"),
    ],
)
def test_what_it_cannot_do_is_one_line(home: Path, arguments: tuple[str, ...], words: str) -> None:
    command = [sys.executable, "-m", "orchestrator", "dashboard", *arguments]
    said = subprocess.run(
        command,
        env={**os.environ, "HALVE_HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    (line,) = said.stderr.splitlines()
    assert said.returncode == 1 and line.startswith("halve: ") and words in line


def test_the_daemons_hook_starts_one_where_the_spec_wants_it_and_the_next_daemon_adopts_it(home: Path) -> None:
    port = free_port()
    text = put_up(home, port)
    door = HttpDoor(home, "ocr")
    try:
        door.ensure(parse(text.replace("dashboard:", "# dashboard:")))
        assert gone(home) and not log_file(home).exists(), "nobody asked for one"
        door.ensure(parse(text))
        until(lambda: answers(port))
        (first,) = dashboards(home)
        Starter(home).ensure()  # another daemon's
        door.ensure(parse(text))
        assert [one.pid for one in dashboards(home)] == [first.pid]
        first.send_signal(signal.SIGKILL)
        until(lambda: gone(home))
        Starter(home).ensure()
        until(lambda: answers(port))
        ledger = open_ledger(home)
        with ledger.write() as tx:
            deployments.take_down(tx, "ocr", datetime.now(UTC))
        ledger.close()
        until(lambda: gone(home), why="it does not leave with its last deployment")
        assert not answers(port)
    finally:
        door.stop()
        door.close()


def test_it_leaves_when_the_spec_says_otherwise(home: Path) -> None:
    port, other = free_port(), free_port()
    put_up(home, port)
    Starter(home).ensure()
    until(lambda: answers(port))
    put_up(home, other, actions="true")
    until(lambda: gone(home))
    Starter(home).ensure()
    until(lambda: answers(other))


def test_what_keeps_it_from_starting_is_in_its_log_and_hurts_nobody(home: Path) -> None:
    port = free_port()
    put_up(home, port)
    (home / "dashboard.token").write_text("a token that others may read\n")
    (home / "dashboard.token").chmod(0o644)
    starter = Starter(home)
    starter.ensure()
    until(lambda: "others may read it" in log_file(home).read_text())
    until(lambda: not dashboards(home))
    starter.ensure()
    starter.ensure()
    assert dashboards(home) == [], "it is not started again at once"


def dashboards(home: Path) -> list:  # type: ignore[type-arg]
    found = []
    for one in living(home):
        with suppress(psutil.Error):  # it ended meanwhile
            if "orchestrator.dashboard" in one.cmdline():
                found.append(one)
    return found
