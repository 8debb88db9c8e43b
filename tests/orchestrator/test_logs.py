"""One line a tick and one an intent, for people and for machines."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.clock import VirtualClock
from orchestrator.ledger.store import open_ledger
from orchestrator.logs import NOISY, JsonLines, to_stderr
from orchestrator.scheduler import tick
from tests.orchestrator.market import NOW
from tests.orchestrator.test_status import ON_DEMAND, opened


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Logging belongs to the process: what a test sets, it takes back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in NOISY}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def ticked(home: Path) -> None:
    ledger = open_ledger(home)
    tick(opened(home, ledger, VirtualClock(NOW), ON_DEMAND))
    ledger.close()


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    return [line for line in lines if line["logger"] == "halve.tick"]


def test_a_tick_and_an_intent_are_a_line_of_json_each(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to_stderr(as_json=True)
    ticked(home)
    decided, launched = said(capsys)
    assert (decided["deployment"], decided["target"], decided["spend_micros"]) == ("ocr", 1, 0)
    assert decided["reason"] in decided["message"]
    assert decided["notes"] == []
    assert decided["at"].endswith("Z") and decided["level"] == "info"
    assert (launched["deployment"], launched["intent"]) == ("ocr", "launch")
    assert launched["offer"].startswith("simulated/")
    assert launched["reason"]


def test_people_read_the_same_lines(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to_stderr(as_json=False)
    ticked(home)
    decided, launched = (line for line in capsys.readouterr().err.splitlines() if "halve.tick" in line)
    assert "deployment=ocr target=1 (" in decided
    assert "deployment=ocr launch simulated/" in launched


def test_a_traceback_stays_within_its_line() -> None:
    try:
        raise ValueError("多行\n词")
    except ValueError:
        record = logging.makeLogRecord({"msg": "failed: %s", "args": ("词",), "exc_info": sys.exc_info()})
    line = JsonLines().format(record)
    assert "\n" not in line
    assert "词" in line  # not escaped: people read it too
    assert json.loads(line)["traceback"].endswith("ValueError: 多行\n词")


def test_what_json_does_not_know_is_said_in_words() -> None:
    assert json.loads(JsonLines().format(logging.makeLogRecord({"msg": "", "where": Path("/a")})))["where"] == "/a"
