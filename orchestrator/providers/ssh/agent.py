"""Runs on a host for as long as the connection: a line of JSON asks, a line of JSON answers.

    python -m orchestrator.providers.ssh.agent HOME MODULE:COMMAND

Replicas there are those of `local`, with its locks and its adoption: they outlive this process, and a token is one
replica however often, and by however many agents, it is asked for. What time it is comes with every question: this
machine's clock may be wrong, and money depends on it.
"""

import fcntl
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import orchestrator
from orchestrator import draw, machine
from orchestrator.providers import ProviderError, Request
from orchestrator.providers.local import Command, LocalProvider, replicas_of
from policies.snapshot import Offer, Purchase

Answer: TypeAlias = Mapping[str, Any]
#: what is asked for by a token alone
ANY = Offer(id="", provider="ssh", zone="", instance_type="", gpu="", purchase=Purchase.OWNED)
LAST_LINES = 200
#: of the youngest replicas; an answer is one line, of which a connection takes 2 MiB
LOGS = 8
END_SECONDS = 15.0


class ToldClock:
    """What time it is, as we were last told."""

    at = datetime.min.replace(tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Agent:
    """The replicas of one installation on this host."""

    def __init__(self, home: Path, command: Command) -> None:
        self._home = home
        self._clock = ToldClock()
        self._watch = draw.watch(home)
        self._local = LocalProvider(home, self._clock, ANY, partial(_enclosed, command, home, lingers()))

    def answer(self, asked: Mapping[str, Any]) -> Answer:
        """Do what is asked. What cannot be done is an answer too."""
        if "now" in asked:
            self._clock.at = datetime.fromisoformat(asked["now"])
        do: Callable[[Mapping[str, Any]], Answer] = getattr(self, f"_{asked['do']}")
        try:
            with self._alone():
                return do(asked)
        except ProviderError as error:
            return {"error": type(error).__name__, "words": str(error)}
        except OSError as error:
            return {"error": "NoCapacity", "words": f"{error.filename}: {error.strerror}"}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """A connection that was cut may have left another agent behind: one of them at a time."""
        self._home.mkdir(parents=True, exist_ok=True)
        with (self._home / "agent.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _hello(self, asked: Mapping[str, Any]) -> Answer:
        gpu, watts = machine.device()
        clock = datetime.now(UTC).isoformat()
        return {"gpu": gpu, "watts": watts, "version": orchestrator.__version__, "clock": clock, "scopes": lingers()}

    def _list(self, asked: Mapping[str, Any]) -> Answer:
        drawn = self._watch.look(time.monotonic())
        return {"listed": [asdict(one) for one in self._local.instances()], "draw": asdict(drawn)}

    def _launch(self, asked: Mapping[str, Any]) -> Answer:
        request = Request(token=asked["token"], offer=ANY, payload=asked["payload"])
        return {"provider_id": self._local.launch(request)}

    def _terminate(self, asked: Mapping[str, Any]) -> Answer:
        self._local.terminate(asked["provider_id"])
        return {}

    def _logs(self, asked: Mapping[str, Any]) -> Answer:
        logs = sorted(self._home.glob("replicas/*/engine.log"), key=lambda path: path.stat().st_mtime)
        return {"logs": {path.parent.name: _tail(path) for path in logs[-LOGS:]}}

    def _remove(self, asked: Mapping[str, Any]) -> Answer:
        """End what runs, and leave nothing of this installation."""
        folders = list(self._home.glob("replicas/*"))
        ends = time.monotonic() + END_SECONDS
        while left := [one for folder in folders for one in replicas_of(folder)]:
            for process in left:
                process.kill() if time.monotonic() > ends - END_SECONDS / 2 else process.terminate()
            if time.monotonic() > ends:
                return {"error": "Unreachable", "words": f"pid {left[0].pid} does not end"}
            time.sleep(0.1)
        shutil.rmtree(self._home)
        return {"ended": len(folders)}


def lingers() -> bool:
    """Whether systemd keeps this user's units when nobody is logged in."""
    try:
        asked = subprocess.run(
            ["loginctl", "show-user", str(os.getuid()), "--property=Linger", "--value"],
            capture_output=True,
            timeout=5,
            check=False,
        )
        works = subprocess.run(["systemctl", "--user", "show-environment"], capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.stdout.strip() == b"yes" and works.returncode == 0


def _enclosed(command: Command, home: Path, scoped: bool, payload: Mapping[str, Any], announce: Path) -> list[str]:
    """Its caches lie where they are removed with the rest. Where systemd keeps it, it has a unit of its own and is no
    part of the login; it stays our child, and keeps its lock.
    """
    said = {"XDG_CACHE_HOME": str(home / "cache")}
    scope: list[str] = []
    if scoped:
        bus = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
        said |= {name: os.environ[name] for name in bus if name in os.environ}
        unit = f"--unit=halve-{announce.parent.name}"
        scope = ["systemd-run", "--user", "--scope", "--quiet", "--collect", unit, "--"]
    return ["env", *(f"{name}={value}" for name, value in said.items()), *scope, *command(payload, announce)]


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 64 * 1024))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-LAST_LINES:])


def main() -> None:
    module, _, name = sys.argv[2].partition(":")
    agent = Agent(Path(sys.argv[1]), getattr(importlib.import_module(module), name))
    for line in sys.stdin:
        asked = json.loads(line)
        answer = {"id": asked["id"], **agent.answer(asked)}
        sys.stdout.write(f"{json.dumps(answer, default=str)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
