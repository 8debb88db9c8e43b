"""The daemon's systemd unit: it starts what there is, waits for its word, and lets doors and replicas go on."""

import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from orchestrator.backups import STOP_SECONDS
from orchestrator.cli import COMMANDS
from orchestrator.daemon import JOBS_SECONDS, LEASE

INFRA = Path(__file__).parents[2] / "infra"
UNIT = INFRA / "systemd" / "halve.service"
UNITS = sorted(INFRA.rglob("*.service"))


def service() -> dict[str, str]:
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(UNIT)
    return dict(unit["Service"])


def test_it_waits_for_the_daemons_word_and_leaves_its_children_alone() -> None:
    unit = service()
    assert (unit["Type"], unit["KillMode"], unit["Restart"]) == ("notify", "process", "always")
    assert unit["ExecStart"].split()[0].endswith("/halve")
    assert unit["ExecStart"].split()[1] in COMMANDS


def test_it_waits_longer_than_the_daemon_takes_to_leave() -> None:
    assert float(service()["TimeoutStopSec"]) > JOBS_SECONDS + STOP_SECONDS + LEASE.total_seconds()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_reads_it_without_a_word(tmp_path: Path, path: Path) -> None:
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", path.read_text(), flags=re.MULTILINE)
    unit = tmp_path / path.name
    unit.write_text(text)
    of_whom = "--user" if path == UNIT else "--system"
    said = subprocess.run(
        ["systemd-analyze", "verify", of_whom, "--man=no", str(unit)],
        env={"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # the watchdog lies beside the engine there, not here
    words = [line for line in said.stderr.splitlines() if path.name in line and "halve-watchdog" not in line]
    assert (said.returncode, words) == (0, []), said.stderr
