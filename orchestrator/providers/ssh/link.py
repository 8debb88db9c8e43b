"""This process's side of a link: have its process up, and ask it."""

import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from orchestrator import providers
from orchestrator.errors import Refused
from orchestrator.files import read_json
from orchestrator.processes import birth
from orchestrator.providers import ProviderError, Unreachable
from orchestrator.providers.ssh import wheel
from orchestrator.providers.ssh.host import Files, private_folder, recall

OPEN_SECONDS = 20.0
END_SECONDS = 10.0
#: a link answers in time whatever its host does; this is for a link that does not
ANSWER_SECONDS = 15.0
WORD_HEADER = "X-Halve-Word"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkProcess:
    """A living link: where it listens, the word that it answers to, and the digest of all that it was opened with."""

    pid: int
    birth: str
    port: int
    word: str
    settings: str

    def to_json(self) -> Mapping[str, Any]:
        return asdict(self)

    @property
    def lives(self) -> bool:
        return birth(self.pid) == self.birth


class Link:
    """One host's link. Safe to use from several threads and processes; it holds nothing but a connection pool."""

    def __init__(self, home: Path, name: str) -> None:
        self.name = name
        self._home = home
        self._files = Files.of(home, name)
        self._http = httpx.Client(timeout=ANSWER_SECONDS, trust_env=False)
        self._child: subprocess.Popen[bytes] | None = None  # if it was this object that opened it

    def ask(self, do: str, *, seconds: float = ANSWER_SECONDS, **what: Any) -> Mapping[str, Any]:
        """What the link says. Raises the ProviderError that it names, and Unreachable when there is no link."""
        process = self.ensure()
        try:
            answer = self._http.post(
                f"http://127.0.0.1:{process.port}/{do}",
                json=what,
                headers={WORD_HEADER: process.word},
                timeout=seconds,
            )
            said: Mapping[str, Any] = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unreachable(f"{self.name}: its link does not answer: {type(error).__name__}") from None
        if answer.status_code == 409:
            raise _named(said["error"])(said["words"])
        if answer.status_code != 200:
            raise Unreachable(f"{self.name}: its link answers {answer.status_code}")
        return said

    def ensure(self) -> LinkProcess:
        """Have the process up, opened with what is known of the host now. Raises Unreachable."""
        process = self.running()
        if process is not None and process.settings == self._settings():
            return process
        try:
            private_folder(self._files.folder)
            with (self._files.folder / "opening.lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                process = self.running()
                if process is not None and process.settings == self._settings():
                    return process
                self.end()
                return self._open()
        except OSError as error:
            raise Unreachable(f"{self.name}: no link: {error.filename}: {error.strerror}") from None
        except Refused as refusal:
            raise Unreachable(str(refusal)) from None

    def running(self) -> LinkProcess | None:
        """The living process, adopted by pid and birth."""
        return living(self._files)

    def end(self) -> None:
        """End the process; replicas go on, and nothing leads to them. Raises Refused when it does not end."""
        process = self.running()
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)
            deadline = time.monotonic() + END_SECONDS
            while process.lives and time.monotonic() < deadline:
                time.sleep(0.02)
            if not process.lives:
                if self._child is not None:
                    self._child.poll()  # reaps
                return
        raise Refused(f"{self.name}: its link, pid {process.pid}, does not end")

    def close(self) -> None:
        """Let go of it; the process goes on."""
        self._http.close()

    def _settings(self) -> str:
        host = recall(self._home, self.name)
        if host is None:
            raise Unreachable(f"{self.name}: {self._files.host} is gone; halve hosts add {self.name}")
        return f"{host.digest()}-{wheel.digest()}"

    def _open(self) -> LinkProcess:
        command = [sys.executable, "-m", "orchestrator.providers.ssh.process", str(self._home.absolute()), self.name]
        word = secrets.token_hex(16)
        with self._files.log.open("ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._files.folder,
                start_new_session=True,
            )
        assert child.stdin is not None
        with suppress(BrokenPipeError):
            child.stdin.write(json.dumps({"word": word, "settings": self._settings()}).encode())
            child.stdin.close()
        self._child = child
        deadline = time.monotonic() + OPEN_SECONDS
        while time.monotonic() < deadline:
            process = self.running()
            if process is not None and process.pid == child.pid:
                return process
            if child.poll() is not None:
                break
            time.sleep(0.02)
        raise Refused(f"{self.name}: its link did not open: {_last_line(self._files.log)}")


def living(files: Files) -> LinkProcess | None:
    """The living process whose files these are; what has only its pid is another one."""
    said = read_json(files.process)
    try:
        process = None if said is None else LinkProcess(**said)
    except TypeError:
        return None
    return process if process is not None and process.lives else None


def _named(error: str) -> type[ProviderError]:
    found = getattr(providers, error, Unreachable)
    return found if isinstance(found, type) and issubclass(found, ProviderError) else Unreachable


def _last_line(log: Path) -> str:
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
    return "it said nothing"
