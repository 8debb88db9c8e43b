"""`halve job`, as a user types it."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from orchestrator.executors.http import HttpExecutor
from orchestrator.ledger import deployments
from orchestrator.ledger.jobs import State
from tests.orchestrator.batch import find, folder, generation, lines, numbered, opened, runner, until
from tests.orchestrator.fake_engine import Replica, replica
from tests.orchestrator.forked import completed

__all__ = ["replica"]


def halve(home: Path, *arguments: object, check: int = 0) -> subprocess.CompletedProcess[str]:
    words = (os.fsdecode(str(one)) for one in arguments)
    done = completed("orchestrator.cli", "job", *words, environment=environment(home))
    assert done.returncode == check, done.stderr
    assert "Traceback" not in done.stderr
    return done


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "orchestrator", "job", *(os.fsdecode(str(one)) for one in arguments)]


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"HALVE_HOME": str(home), "COLUMNS": "200"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    opened(tmp_path / "home").close()
    return tmp_path / "home"


def test_a_batch_from_submit_to_results(tmp_path: Path, home: Path, replica: Replica) -> None:
    ledger = generation(opened(home))  # this process is the daemon
    running = runner(ledger, HttpExecutor(replica.start().url))
    running.start()
    source = folder(tmp_path / "in", numbered(20) | {"新/z.png": "中文".encode(), "bad.png": b"corrupt"})
    try:
        done = halve(
            home, "submit", source, "--out", tmp_path / "out", "--fields", "甲方, 金额", "--wait", "--json", check=1
        )
    finally:
        running.stop(5.0)
    job = json.loads(done.stdout)
    assert (job["state"], job["items"], job["done"], job["failed"], job["waiting"]) == ("done", 22, 21, 1, 0)
    assert "job 1 is done: 21 read, 1 failed" in done.stderr
    assert json.loads(halve(home, "show", 1, "--json").stdout)["fields"] == ["甲方", "金额"]
    (listed,) = json.loads(halve(home, "list", "--json").stdout)
    assert listed["id"] == 1 and listed["finished_at"].endswith("Z")
    assert halve(home, "results", 1).stdout.encode() == (tmp_path / "out/results.jsonl").read_bytes()
    assert halve(home, "results", 1, "--errors").stdout.encode() == (tmp_path / "out/errors.jsonl").read_bytes()
    assert lines(tmp_path / "out/errors.jsonl") == [{"original_filename": "bad.png", "error": "400 damaged PNG image"}]
    assert lines(tmp_path / "out/results.jsonl")[0]["structured_data"] == {"甲方": "", "金额": ""}
    assert "is done" in halve(home, "show", 1).stdout
    assert "done" in halve(home, "list").stdout
    for verb in ("pause", "resume", "cancel"):
        assert "job 1 is done" in halve(home, verb, 1, check=1).stderr


def test_without_a_daemon_it_is_recorded_and_says_what_runs_it(tmp_path: Path, home: Path) -> None:
    source = folder(tmp_path / "in", numbered(3))
    done = halve(home, "submit", source, "--out", tmp_path / "out")
    assert "job 1: 3 images" in done.stdout
    assert "`halve up /specs/ocr.yaml` will run it" in done.stderr
    waited = halve(home, "submit", source, "--out", tmp_path / "other", "--wait", check=1)
    assert "job 2 is recorded; no daemon is running" in waited.stderr
    assert find(opened(home), 2).state is State.RUNNING


def test_pause_resume_cancel_and_results_before_the_end(tmp_path: Path, home: Path) -> None:
    halve(home, "submit", folder(tmp_path / "in", numbered(3)), "--out", tmp_path / "out")
    assert halve(home, "pause", 1).stdout == "job 1 is paused, 3 of 3 images left\n"
    assert "is paused: by its user" in halve(home, "show", 1).stdout
    assert halve(home, "resume", 1).stdout == "job 1 is running, 3 of 3 images left\n"
    assert halve(home, "results", 1).stdout == ""
    assert halve(home, "cancel", 1).stdout == "job 1 is cancelled, 3 of 3 images left\n"
    assert halve(home, "cancel", 1).stdout == "job 1 is cancelled, 3 of 3 images left\n"
    assert "nothing of it can be running any more" in halve(home, "resume", 1, check=1).stderr


def test_a_deadline_is_a_duration_or_a_time_of_day_where_the_schedule_is(tmp_path: Path) -> None:
    home, before = tmp_path / "home", datetime.now(UTC)
    text = "{name: ocr, model: ppocr, provider: local, currency: CNY, schedule: {timezone: Asia/Shanghai}}"
    ledger = opened(home)
    with ledger.write() as tx:
        deployments.put_up(tx, "ocr", text, "ocr.yaml", before)
    source = folder(tmp_path / "in", numbered(3))

    def due(deadline: str) -> datetime:
        options = ["--out", tmp_path / deadline, "--deadline", deadline, "--budget", "20", "--json"]
        done = halve(home, "submit", source, *options)
        assert "the deadline is no promise: nobody has measured how fast ocr reads" in done.stderr
        job = json.loads(done.stdout)
        assert (job["budget_micros"], job["currency"]) == (20_000_000, "CNY")
        return datetime.fromisoformat(job["deadline_at"])

    assert timedelta(hours=8) <= due("8h") - before.replace(microsecond=0) < timedelta(hours=8, minutes=2)
    morning = due("06:00")
    assert f"{morning.astimezone(ZoneInfo('Asia/Shanghai')):%H:%M}" == "06:00"
    assert before < morning <= datetime.now(UTC) + timedelta(days=1)
    refused = halve(home, "submit", source, "--out", tmp_path / "x", "--deadline", "soon", check=1)
    assert refused.stderr == 'halve: --deadline soon: want 6h, HH:MM, or "YYYY-MM-DD HH:MM"\n'
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("verb", ["show", "pause", "resume", "cancel", "results"])
def test_a_job_that_is_not_there(home: Path, verb: str) -> None:
    assert (
        halve(home, verb, 9, check=1).stderr == "halve: job 9: there is none; `halve job list` shows those there are\n"
    )


@pytest.mark.parametrize("arguments", [["show", "x"], ["show"], ["submit", "in"], ["nonsense"]])
def test_wrong_usage(home: Path, arguments: list[str]) -> None:
    halve(home, *arguments, check=2)


def test_an_empty_list_and_a_home_without_deployments(tmp_path: Path) -> None:
    assert "no jobs yet" in halve(tmp_path / "new", "list").stdout
    assert json.loads(halve(tmp_path / "new", "list", "--json").stdout) == []
    refused = halve(tmp_path / "new", "submit", tmp_path, "--out", tmp_path / "out", check=1)
    assert refused.stderr == "halve: there is no deployment yet; `halve up SPEC` makes one\n"


def test_interrupting_the_wait_leaves_the_job_running(tmp_path: Path, home: Path) -> None:
    ledger = generation(opened(home))
    source = folder(tmp_path / "in", numbered(3))
    arguments = command("submit", source, "--out", tmp_path / "out", "--wait")
    shown = environment(home) | {"FORCE_COLOR": "1"}  # its progress too, though this is no terminal
    waiting = subprocess.Popen(arguments, env=shown, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert waiting.stdout is not None and waiting.stderr is not None
    assert waiting.stdout.readline().startswith("job 1: 3 images")
    progress = b""
    while b"job 1" not in progress:
        progress += (piece := os.read(waiting.stderr.fileno(), 4096))
        assert piece, progress
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=120)
    assert waiting.returncode == 130
    assert "halve: job 1 goes on; `halve job show 1` shows how far it is" in said
    assert "Traceback" not in said
    assert find(ledger, 1).state is State.RUNNING


def test_names_that_no_terminal_can_show(tmp_path: Path, home: Path) -> None:
    out = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.out")
    source = folder(tmp_path / "in", {b"\xe9.png": b"a"})
    done = halve(home, "submit", source, "--out", out)
    assert len(done.stdout.splitlines()) == 1
    assert "\\udcff\\n.out" in done.stdout
    assert json.loads(halve(home, "show", 1, "--json").stdout)["destination"] == out
    assert "\\udcff\\n.out" in halve(home, "list").stdout


def test_results_into_a_pipe_that_closes(tmp_path: Path, home: Path) -> None:
    ledger = generation(opened(home))
    names = {f"{number}.png": b"x" * 5000 for number in range(100)}
    halve(home, "submit", folder(tmp_path / "in", names), "--out", tmp_path / "out")

    from orchestrator.executors import Executor, Outcome, Verdict

    class Copy(Executor):
        def read(self, task):
            return Outcome(verdict=Verdict.READ, result={"recognized_text": task.place.read_text()})

    running = runner(ledger, Copy())
    running.start()
    until(lambda: find(ledger, 1).state is State.DONE)
    running.stop(5.0)
    printing = subprocess.Popen(
        command("results", 1), env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert printing.stdout is not None and printing.stderr is not None
    printing.stdout.readline()
    printing.stdout.close()
    assert printing.stderr.read() == b""
    printing.stderr.close()
    assert printing.wait(120) == 0
