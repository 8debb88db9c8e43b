"""docs/aws.md cannot rot: its commands are run as they stand there, from an empty account to a served request and back.

The AWS is moto's with what it lacks added; the daemon, the door, the watchdog and the engine are the real ones.
"""

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from orchestrator.clock import SystemClock
from orchestrator.providers.aws.settings import ENGINE_PORT, WATCHDOG_PORT
from tests.orchestrator import aws_proxy as aws
from tests.orchestrator.aws_machine import Machine, metadata_service, started
from tests.orchestrator.ports import free_port
from tests.orchestrator.tiny import until

pytest.importorskip("flask", reason="moto's server needs Flask")

TOP = Path(__file__).resolve().parents[2]
PAGE = (TOP / "docs" / "aws.md").read_text(encoding="utf-8")
RUNBOOK = (TOP / "infra" / "README.md").read_text(encoding="utf-8")


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def test_the_ten_commands_are_the_pages() -> None:
    (runbook,) = blocks(RUNBOOK, "sh")
    commands = runbook.splitlines()
    assert len([one for one in commands if not one.startswith("export")]) == 10
    assert [one for one in commands if one not in "".join(blocks(PAGE, "sh")).splitlines()] == []


@dataclass
class Floor:
    """Where EC2's machines stand: each at its own address of this machine's loopback, on the ports that are everywhere.

    Nothing between them and the controller is a test's: what a machine is told at its launch is what runs.
    """

    cloud: aws.Cloud
    folder: Path
    machines: dict[str, tuple[Machine, "subprocess.Popen[bytes]"]] = field(default_factory=dict)
    _end: ExitStack = field(default_factory=ExitStack)

    def look(self) -> None:
        """Switch on whom EC2 has launched, and off whom it has ended."""
        alive = {one.id: one for one in self.cloud.alive() if one.id in self.cloud.lives}  # whose launch is through
        for name in alive.keys() - self.machines.keys():
            form = next(one for one in self.cloud.sent if one["ClientToken"] == alive[name].client_token)
            (nic,) = alive[name].nics.values()
            self._switch_on(name, nic.public_ip, base64.b64decode(form["UserData"]).decode())
        for name in self.machines.keys() - alive.keys():
            self._switch_off(name)

    def close(self) -> None:
        for name in self.machines:
            self._switch_off(name)
        self._end.close()

    def _switch_on(self, name: str, address: str, user_data: str) -> None:
        said = self._end.enter_context(metadata_service())
        folder = self.folder / name
        machine = started(folder, user_data, said.url, port=WATCHDOG_PORT, address=address)
        self.cloud.consoles[name] = machine.console
        until(machine.certificate.exists, 60, "it never made its certificate")
        with (folder / "engine.log").open("w") as log:
            engine = subprocess.Popen(engine_command(user_data, folder, address), stdout=log, stderr=log)
        self.machines[name] = machine, engine

    def _switch_off(self, name: str) -> None:
        machine, engine = self.machines[name]
        for process in (engine, machine.process):
            process.kill()
            process.wait()


def engine_command(user_data: str, folder: Path, address: str) -> list[str]:
    """What systemd would start, with the places that are here."""
    files = {one["path"]: one["content"] for one in yaml.safe_load(user_data)["write_files"]}
    (command,) = re.findall(r"^ExecStart=(.*)$", files["/etc/systemd/system/halve-engine.service"], re.MULTILINE)
    (words,) = re.findall(r'^HALVE_ENGINE="(.*)"$', files["/opt/halve/engine.env"], re.MULTILINE)
    here = {
        "$HALVE_ENGINE": words,
        "/opt/halve/venv/bin/python": sys.executable,
        "%d": f"{folder}/tls",
        "/opt/halve": str(folder),
        "0.0.0.0": address,
    }
    for there, place in here.items():
        command = command.replace(there, place)
    assert f"--port {ENGINE_PORT}" in command
    return command.split()


@contextmanager
def looked_after(floor: Floor) -> Iterator[None]:
    """By somebody of its own, as a data centre is."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            floor.look()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)
        floor.close()


def script(port: int) -> str:
    """The page's commands in their order; the door's port, and the address that we are seen at, are this run's."""
    said = "".join(blocks(PAGE, "sh")).replace("127.0.0.1:7860", f"127.0.0.1:{port}")
    return said.replace("  bucket: $BUCKET\n", "  bucket: $BUCKET\n  address: 203.0.113.7\n")


def tools(folder: Path) -> Path:
    """`aws` and `halve`, as commands."""
    place = folder / "bin"
    place.mkdir()
    for name, module in (("aws", "tests.orchestrator.aws_command"), ("halve", "orchestrator")):
        (place / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (place / name).chmod(0o755)
    return place


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_an_account_to_a_served_request_and_back_to_nothing(home: Path, tmp_path: Path) -> None:
    import boto3

    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("infra", "tests"):
        (folder / name).symlink_to(TOP / name)
    path = os.pathsep.join([str(TOP), os.environ.get("PYTHONPATH", "")])
    with aws.running(SystemClock()) as cloud:
        aws.priced(cloud, aws.REGION)
        for kind, amount in (("g5.xlarge", "1.006"), ("g6.xlarge", "0.8048")):
            cloud.price(kind, aws.REGION, amount)
        cloud.quotas |= {"L-3819A6DF": 8.0, "L-DB2E81BA": 8.0}
        floor = Floor(cloud, tmp_path)
        with looked_after(floor):
            ran = subprocess.run(
                ["bash", "-euxo", "pipefail", "-c", script(free_port())],
                cwd=folder,
                env={**os.environ, "HALVE_HOME": str(home), "PATH": f"{tools(tmp_path)}:{os.environ['PATH']}"}
                | {"PYTHONPATH": path, "COLUMNS": "80"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=500,
                check=False,
            )
        assert ran.returncode == 0, ran.stdout[-6000:]
        said = dict(re.findall(r"^\+ ([^\n]*)\n((?:(?!\+ )[^\n]*\n)*)", ran.stdout, re.MULTILINE))
        (read,) = [printed for command, printed in said.items() if command.startswith("curl")]
        assert "发票号码" in json.JSONDecoder().raw_decode(read)[0]["recognized_text"]
        (checked,) = [printed for command, printed in said.items() if command.startswith("halve aws check")]
        assert subjects(blocks(PAGE, "text")[0]) <= subjects(checked), checked
        listings = [printed for command, printed in said.items() if re.match("aws ec2 describe-(inst|vol)", command)]
        assert [one.strip() for one in listings] == ["", ""]
        assert floor.machines and cloud.alive() == []
        assert all(life.ended_at is not None for life in cloud.lives.values())
        named = [{"Name": "group-name", "Values": ["halve-replica"]}]
        assert boto3.client("ec2").describe_security_groups(Filters=named)["SecurityGroups"] == []
        assert boto3.client("s3").list_buckets()["Buckets"] == []
        assert boto3.client("iam").list_users()["Users"] == []


def subjects(findings: str) -> set[str]:
    """What was looked at, and whether it is as it should be, whatever was found."""
    return {found[0] for found in re.findall(r"^((ok|bad|note) +us-east-1 [^:]+):", findings, re.MULTILINE)}
