"""Where the machines of a simulated EC2 stand: each launched one gets a watchdog and an engine, as processes here."""

import base64
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.pinning import Pins
from orchestrator.providers import Listed
from orchestrator.providers.aws.contact import Contacts, Place
from orchestrator.providers.aws.settings import Installation
from orchestrator.providers.aws.watch import Watch
from tests.orchestrator import aws_proxy as aws
from tests.orchestrator.aws_engine import HELD, READ
from tests.orchestrator.aws_machine import Machine, Metadata, metadata_service, started
from tests.orchestrator.ports import free_port
from tests.orchestrator.tiny import until

NOWHERE = Place(engine="https://127.0.0.1:9", watchdog="https://127.0.0.1:9")  # the discard port: refused at once


@dataclass
class Standing:
    """One machine, switched on."""

    machine: Machine
    metadata: Metadata
    engine_port: int
    engine: "subprocess.Popen[bytes]"

    def begun(self) -> list[str]:
        """What its engine has begun to read."""
        log = self.machine.folder / READ
        return log.read_text().splitlines() if log.exists() else []

    def hold(self) -> None:
        """From now on its engine ends nothing that it begins; returns once it holds something."""
        held = self.machine.folder / HELD
        held.touch()
        until(held.read_text)

    def crash(self) -> None:
        """All of it, at once."""
        for process in (self.engine, self.machine.process):
            process.kill()
            process.wait()


@dataclass
class Park:
    """All machines of one home, by launch token."""

    cloud: aws.Cloud
    home: Path
    folder: Path
    seconds_per_image: float = 0.05
    standing: dict[str, Standing] = field(default_factory=dict)
    _end: ExitStack = field(default_factory=ExitStack)

    def watch(self, installation: Installation) -> Watch:
        """That asks them where they stand here, as often as one looks."""
        return Watch(
            installation, Contacts(Pins(self.home), installation.key, self._place, again_seconds=0), ask_seconds=0
        )

    def switch_on(self) -> None:
        """Every machine that EC2 has started since."""
        sent = {form["ClientToken"]: form["UserData"] for form in self.cloud.sent}
        for one in self.cloud.alive():
            if one.client_token not in self.standing:
                self._switch_on(one.client_token, one.id, base64.b64decode(sent[one.client_token]).decode())

    def take_back(self, token: str) -> None:
        """As EC2 does: it is gone, whatever it was doing."""
        self.standing[token].crash()
        self.cloud.take_back(self.cloud.of_token(token))

    def switch_off(self) -> None:
        """Those that EC2 has ended."""
        alive = {one.client_token for one in self.cloud.alive()}
        for token, one in self.standing.items():
            if token not in alive:
                one.crash()

    def close(self) -> None:
        for one in self.standing.values():
            one.crash()
        self._end.close()

    def _switch_on(self, token: str, instance_id: str, user_data: str) -> None:
        metadata = self._end.enter_context(metadata_service())
        folder = self.folder / instance_id
        machine = started(folder, user_data, metadata.url)
        self.cloud.consoles[instance_id] = machine.console
        until(machine.certificate.exists, 60, "it never made its certificate")
        port = free_port()
        command = [sys.executable, "-m", "tests.orchestrator.aws_engine", str(port), str(folder)]
        engine = subprocess.Popen([*command, str(self.seconds_per_image)])
        self.standing[token] = Standing(machine, metadata, port, engine)

    def _place(self, machine: Listed) -> Place:
        one = self.standing.get(machine.token)
        return Place(engine=f"https://127.0.0.1:{one.engine_port}", watchdog=one.machine.url) if one else NOWHERE
