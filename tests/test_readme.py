"""The README cannot rot: its commands exist, its files exist, and what it prints is what is printed."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import COMMANDS
from tests.inference.replica import replica

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def printed(command: str) -> list[str]:
    """What the README says that a command prints, line by line."""
    found = re.search(rf"^\$ {re.escape(command)}\n(.*?)(?=^\$ |^```)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, f"the README shows no {command}"
    return [line.rstrip() for line in found[1].splitlines()]


def halve(command: str, home: Path) -> list[str]:
    """Run a command as it stands in the README, from the repository's root, in a terminal of 88 columns."""
    words = command.replace("october.db", str(home / "october.db")).split()[1:]
    environment = {**os.environ, "HALVE_HOME": str(home), "COLUMNS": "88"}
    command_line = [sys.executable, "-m", "orchestrator", *words]
    done = subprocess.run(command_line, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    return [line.rstrip() for line in done.stdout.splitlines()]


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_its_commands_exist() -> None:
    blocks = "\n".join(re.findall(r"^```\w+\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
    used = {*re.findall(r"^(?:\$ )?halve ([a-z]+)", blocks, re.MULTILINE), *re.findall(r"`halve ([a-z]+)", README)}
    assert used
    assert used <= COMMANDS.keys()


def test_its_files_exist() -> None:
    named = set(re.findall(r"\b(?:infra|tests|orchestrator|policies)/[\w./-]+\.\w+", README))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_gpu_table(tmp_path: Path) -> None:
    command = "halve gpus --model cv_resnet18_ocr-detection --latency 0.3"
    assert halve(command, tmp_path) == printed(command)


@pytest.mark.slow
def test_the_simulated_month(tmp_path: Path) -> None:
    halve("halve simulate infra/examples/daytime-spot.yaml --month 2026-10 --ledger october.db", tmp_path)
    command = "halve report --month 2026-10 --ledger october.db"
    assert halve(command, tmp_path) == printed(command)


@pytest.mark.slow
def test_its_curl_lines_are_answered(tmp_path: Path) -> None:
    """As they stand, but for the port: whoever runs the tests may use the one that is written there."""
    lines = re.findall(r"^(?:\$ )?(curl .+?)(?:  +#.*)?$", README, re.MULTILINE)
    assert lines
    if shutil.which("curl") is None:
        pytest.skip("curl is not here")
    with replica(tmp_path) as served:
        served.until("ready")
        for line in lines:
            asked = line.replace("http://127.0.0.1:7860", served.announced["url"])
            assert served.announced["url"] in asked, line
            command = [*shlex.split(asked), "--silent", "--show-error", "--fail", "--max-time", "120"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=180, check=False)
            assert done.returncode == 0, done.stderr.decode()
            assert json.loads(done.stdout)["lines"]
