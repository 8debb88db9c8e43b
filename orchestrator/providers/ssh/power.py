"""Switching a host on and off by commands of this machine: a vendor's tool, Wake-on-LAN. No shell is asked.

What it costs depends on this, so it is kept: since when the host is on, since when it is off, and whose end waits for
its being switched off.
"""

import asyncio
import os
import re
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from orchestrator.files import read_json, write_json

_NAMES = r"token|secret|passw(?:or)?d|credential|api[_-]?key|access[_-]?key|auth"
_SAID = re.compile(
    rf"(?i)((?:{_NAMES})[\w-]*[\"']?\s*[:=]\s*[\"']?(?:bearer\s+|basic\s+)?|bearer\s+|--?(?:{_NAMES})[\w-]*\s+)([^\s\"',;]+)"
)
_IN_URL = re.compile(r"(://[^/\s:@]*:)[^/\s@]+(@)")
_SECRET_NAME = re.compile(rf"(?i){_NAMES}|(?:^|_)key(?:$|_)")
MASK = "***"
#: of what a command says, so much is kept
LAST_BYTES = 64 * 1024


@dataclass(slots=True)
class Power:
    """Whether a host is switched on, as far as that was our doing. Moments are ISO 8601."""

    on_since: str | None = None  # it is on, and `stop` will end it
    off_since: str | None = None  # `stop` succeeded then, and nobody has started it since
    ending: list[str] = field(default_factory=list)  # replicas that were to be ended: it is switched off for them
    ended: dict[str, str] = field(default_factory=dict)  # replicas whose end was the host's


def read(path: Path) -> Power:
    """As it was kept; nothing known where nothing was."""
    said = read_json(path)
    with suppress(TypeError):
        return Power(**said) if said else Power()
    return Power()


def keep(path: Path, power: Power) -> None:
    """Raises OSError."""
    write_json(path, asdict(power))


async def command(argv: Sequence[str], seconds: float, log: Path, now: datetime) -> str | None:
    """Run a command to its end; None when it succeeded, else why not, in a line. What it said is in the log, masked."""
    said, why = b"", None
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        why = f"{argv[0]}: {error.strerror}"
    else:
        try:
            async with asyncio.timeout(seconds):
                said, _ = await process.communicate()
            if process.returncode:
                lines = masked(said.decode(errors="replace"), os.environ).strip().splitlines()
                why = f"{argv[0]} ended with {process.returncode}{f': {lines[-1][:200]}' if lines else ''}"
        except TimeoutError:
            why = f"{argv[0]} was not done within {seconds:.0f} s"
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # it may have children that hold on to its output
                await process.wait()
    text = said[-LAST_BYTES:].decode(errors="replace")
    lines = [f"$ {' '.join(argv)}", *text.splitlines(), why or "done"]
    with suppress(OSError), log.open("a", encoding="utf-8") as file:
        file.writelines(f"{now:%Y-%m-%d %H:%M:%S} {masked(line, os.environ)}\n" for line in lines)
    return why


def masked(text: str, environment: Mapping[str, str]) -> str:
    """The text without what looks like a secret, and without the values of variables that are named like one."""
    secrets = [value for name, value in environment.items() if len(value) >= 6 and _SECRET_NAME.search(name)]
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _IN_URL.sub(rf"\1{MASK}\2", _SAID.sub(rf"\1{MASK}", text))
