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


#: what a machine of these units has and this one may lack
DOCKER = "[Service]\nExecStart=/bin/true\n"
PROGRAM = re.compile(r"^(Exec\w+=-?)(\S+)", re.MULTILINE)
PROGRAMS = {"%h/.local/bin/halve", "/opt/halve/venv/bin/python", "/usr/bin/python3", "/usr/bin/docker"}
SERVICES = {"docker.service", *(path.name for path in UNITS)}


def verified(folder: Path, path: Path, text: str) -> subprocess.CompletedProcess[str]:
    """What systemd says of such a unit among the others of its machine, whose programs are all there."""
    there = {"docker.service": DOCKER, **{one.name: one.read_text() for one in UNITS}}
    for name, words in (there | {path.name: text}).items():
        (folder / name).write_text(PROGRAM.sub(r"\1/bin/true", words))
    of_whom = "--user" if path == UNIT else "--system"
    return subprocess.run(
        ["systemd-analyze", "verify", of_whom, "--man=no", str(folder / path.name)],
        env={"XDG_RUNTIME_DIR": str(folder), "HOME": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_reads_it_without_a_word(tmp_path: Path, path: Path) -> None:
    said = verified(tmp_path, path, path.read_text())
    # of the machine's own units it may have something to say
    assert (said.returncode, [line for line in said.stderr.splitlines() if "halve" in line]) == (0, []), said.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("Restart=always", "Restrat=always"),
        ("Restart=always", "Restart=alway"),
        ("RestartSec=", "RestartSec=soon "),
        ("ExecStart=", "ExecStrat="),
        ("[Unit]", "[Unit]\nRequires=halve-imaginary.service"),
    ],
)
def test_systemd_has_a_word_for_a_mistake(tmp_path: Path, path: Path, right: str, wrong: str) -> None:
    assert right in path.read_text()
    said = verified(tmp_path, path, path.read_text().replace(right, wrong))
    assert path.name in said.stderr


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_it_names_programs_and_services_that_are_there(path: Path) -> None:
    text = path.read_text()
    assert {program for _, program in PROGRAM.findall(text)} <= PROGRAMS
    assert {*re.findall(r"[\w-]+\.service", text)} <= SERVICES
