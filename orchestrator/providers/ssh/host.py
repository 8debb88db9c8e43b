"""What is known of a host on this side, and where that is kept."""

import hashlib
import json
import os
import re
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.files import read_json, write_json

#: what a replica is started with; tests have a smaller one
ENGINE = "orchestrator.providers.local:engine_command"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine and how it is reached. `start` and `stop` are commands of this machine, not of the host."""

    address: str
    port: int = 22
    user: str | None = None  # None: who runs this
    key: str | None = None  # path of a private key; None: ssh's usual ones, and its agent
    python: str = "python3"
    start: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    command_seconds: float = 120.0  # for `start` and `stop`
    replica: str = ENGINE

    @property
    def name(self) -> str:
        """What people call it: the address, with the port where it is not 22."""
        return named(self.address, self.port)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def digest(self) -> str:
        """A hash of all of it: a link that was opened with another one is opened anew."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def named(address: str, port: int) -> str:
    """As known_hosts files and people write it."""
    if port == 22:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def from_json(said: dict[str, Any]) -> Host:
    """Raises TypeError or KeyError for what no version has written."""
    return Host(**{**said, "start": tuple(said["start"]), "stop": tuple(said["stop"])})


@dataclass(frozen=True, slots=True)
class Files:
    """Where a host's things are on this side."""

    folder: Path

    @classmethod
    def of(cls, home: Path, name: str) -> "Files":
        return cls(home.absolute() / "hosts" / re.sub(r"[^A-Za-z0-9.-]", "_", name))

    @property
    def host(self) -> Path:
        return self.folder / "host.json"

    @property
    def process(self) -> Path:
        """Which process the link is, and the word that it answers to. Only its owner may read it."""
        return self.folder / "link.json"

    @property
    def lock(self) -> Path:
        return self.folder / "link.lock"

    @property
    def log(self) -> Path:
        return self.folder / "link.log"

    @property
    def commands_log(self) -> Path:
        """What `start` and `stop` said."""
        return self.folder / "commands.log"

    @property
    def seen(self) -> Path:
        """What the host last said of itself and of its replicas."""
        return self.folder / "seen.json"

    @property
    def power(self) -> Path:
        return self.folder / "power.json"

    @property
    def ports(self) -> Path:
        """Which port of this machine leads to which replica, so that it stays the same."""
        return self.folder / "ports.json"


def remember(home: Path, host: Host) -> None:
    """Note how a host is reached; who says so last is believed. Raises OSError."""
    files = Files.of(home, host.name)
    private_folder(files.folder)
    if recall(home, host.name) != host:
        write_json(files.host, host.to_json())


def recall(home: Path, name: str) -> Host | None:
    """The host as it was last noted."""
    return _noted(Files.of(home, name).host)


def _noted(path: Path) -> Host | None:
    said = read_json(path)
    try:
        return None if said is None else from_json(said)
    except (TypeError, KeyError):
        return None


def known(home: Path) -> Sequence[Host]:
    """All hosts that were noted, by name."""
    folder = home.absolute() / "hosts"
    found = [_noted(path) for path in folder.glob("*/host.json")]
    return sorted((host for host in found if host is not None), key=lambda host: host.name)


def installation(home: Path) -> str:
    """Whose replicas on a host are ours: made once, and kept in HALVE_HOME. Raises OSError."""
    path = home.absolute() / "hosts" / "installation"
    private_folder(path.parent)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(uuid.uuid4().hex)
    return path.read_text(encoding="ascii").strip()


def private_folder(path: Path) -> None:
    """A folder that only its owner may look into. Raises OSError."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
