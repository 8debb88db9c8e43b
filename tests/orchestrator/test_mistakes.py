"""What people get wrong at a prompt: whatever they type, the answer is one clear line, and nothing is lost."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator import holding
from orchestrator.cli import app
from orchestrator.errors import Refused
from orchestrator.ledger import deployments
from orchestrator.ledger.store import Ledger, open_ledger
from orchestrator.status import status
from tests.orchestrator.test_control import halve, refused

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SPEC = """
name: ocr
model: ppocr
provider: simulated
simulated: {price_per_hour: 1.80}
schedule: {timezone: Asia/Tokyo, windows: ["Mon-Fri 08:00-20:00"]}
"""
HOSTILE = (
    *(
        "",
        "x",
        "-1",
        "0",
        "1e400",
        "nan",
        "inf",
        "9" * 40,
        "１２",
        "2026-02-30",
        "0001-01-01 00:00",
        "9999-12-31 23:59",
    ),
    *("2026-13", "0000-01", "{0}", "%s", "../../etc/passwd", "/dev/null", "/", "a" * 5000, "\x1b[31m", "é\u202e"),
)
ASKED = (
    *(("report", option) for option in ("--month", "--lang", "--focus", "--ledger")),
    *(("gpus", option) for option in ("--model", "--latency", "--size")),
    *(("why", "ocr", option) for option in ("--last", "--at", "--tick")),
    *(("prices", "history", option) for option in ("--gpu", "--ledger")),
    *(("override", "ocr", "open", "--until"), ("override", "ocr"), ("override",), ("why",), ("down",)),
    *(("job", verb) for verb in ("show", "pause", "resume", "cancel", "results")),
    *(("job", "resume", "1", "--budget"), ("ledger", "check", "--ledger"), ("prices", "import")),
    *(("plan",), ("windows",), ("windows", "SPEC", "--from"), ("windows", "SPEC", "--to"), ("ledger", "restore")),
)


@pytest.fixture(scope="module")
def home(filled_home: Path) -> Path:
    (filled_home / "ocr.yaml").write_text(SPEC)
    return filled_home


@pytest.mark.parametrize("words", ASKED, ids=" ".join)
def test_whatever_is_typed_there_is_no_traceback(
    home: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(home)
    typed = [str(home / "ocr.yaml") if word == "SPEC" else word for word in words]
    for value in HOSTILE:
        env = {"HALVE_HOME": str(home), "HALVE_DATABASE_URL": None, "COLUMNS": "80"}
        found = CliRunner().invoke(app, [*typed, value], env=env)
        assert found.exit_code in (0, 1, 2), (value, found.exception)
        said = found.exception
        plain = isinstance(said, OSError) and said.filename is not None  # as in the next test
        assert said is None or plain or isinstance(said, Refused | SystemExit), (value, said)


def test_a_file_that_the_system_does_not_give_is_one_line(home: Path) -> None:
    line = refused(halve(home, "ledger", "restore", "a" * 5000))
    assert line.startswith("halve: aaa") and line.endswith("a: File name too long")


@pytest.mark.parametrize("encoding", ["ascii", "gbk"])
def test_what_a_terminals_encoding_lacks_is_no_traceback(home: Path, encoding: str) -> None:
    for words in (("gpus",), ("report", "--lang", "zh")):
        said = shown(home, *words, PYTHONIOENCODING=encoding)
        assert said.returncode == 0 and said.stdout, said.stderr
    page = shown(home, "report", "--lang", "zh", "--html", PYTHONIOENCODING=encoding).stdout.decode("utf-8")
    assert '<meta charset="utf-8">' in page and "本报告为估算" in page, "as it says of itself"
    listed = shown(home, "report", "--lang", "zh", "--csv", PYTHONIOENCODING=encoding).stdout.decode("utf-8-sig")
    assert listed.startswith("账期")


@pytest.mark.parametrize("columns", ["0", "wide"])
def test_a_width_that_is_none_hides_nothing(home: Path, columns: str) -> None:
    assert b"RTX 3060" in shown(home, "gpus", COLUMNS=columns).stdout


def shown(home: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """What a command writes, byte by byte."""
    env = {**os.environ, "HALVE_HOME": str(home), **environment}
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *words], env=env, capture_output=True, timeout=250, check=False
    )


# a deployment held open or closed


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(tmp_path)
    with opened.write() as tx:
        deployments.put_up(tx, "ocr", SPEC, "ocr.yaml", NOW)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("until", "words"),
    [
        ("9999-12-31 23:59", "is more than a year away: change the schedule in the spec instead"),
        ("2027-12-01 00:00", "is more than a year away"),
        ("0001-01-01 00:00", "want HH:MM"),  # in Tokyo that is before there were years
        ("2026-11-21 20:59", "has passed already"),
        ("24:00", "want HH:MM"),
    ],
)
def test_a_time_that_nobody_can_mean_is_refused(tmp_path: Path, ledger: Ledger, until: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        holding.hold(ledger, "ocr", "open", until, NOW)
    (shown,) = status(tmp_path, ledger, NOW)["deployments"]
    assert not shown["open"], "nothing was changed"


def test_a_year_is_held_and_status_says_so(tmp_path: Path, ledger: Ledger) -> None:
    until = f"{NOW + timedelta(days=365):%Y-%m-%d %H:%M}"
    holding.hold(ledger, "ocr", "open", until, NOW)
    (shown,) = status(tmp_path, ledger, NOW)["deployments"]
    assert shown["open"]
