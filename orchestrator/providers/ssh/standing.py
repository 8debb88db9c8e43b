"""How a host stands: what its link says of it, or has noted."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator import draw
from orchestrator.draw import Draw
from orchestrator.files import read_json
from orchestrator.providers.ssh.host import Files
from orchestrator.providers.ssh.link import living

NOBODY_ASKS = "nobody asks it: no daemon runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One host."""

    name: str
    state: str  # ready | busy | off | unreachable
    why: str  # in words with the remedy, unless it is ready
    gpu: str | None
    watts: float | None  # the GPU's power limit
    draw: Draw
    version: str | None  # of the program that is installed there
    clock_ahead_seconds: float | None
    replicas: tuple[str, ...]  # tokens of those that live, as far as is known


def read(name: str, said: Mapping[str, Any]) -> Standing:
    """What a link answers to a look, or what it has noted."""
    hello = said.get("hello") or {}
    state = "ready" if said["reached"] else "off" if said["off"] else "busy" if said["busy"] else "unreachable"
    return Standing(
        name=name,
        state=state,
        why=str(said["why"]),
        gpu=hello.get("gpu"),
        watts=hello.get("watts"),
        draw=drawn(said),
        version=hello.get("version"),
        clock_ahead_seconds=hello.get("clock_ahead_seconds"),
        replicas=tuple(row["token"] for row in said["listed"] if row["state"] in ("starting", "running")),
    )


def drawn(said: Mapping[str, Any]) -> Draw:
    """The power a host draws, by what was noted of it."""
    return replace(draw.from_json(said.get("draw")), limit_watts=(said.get("hello") or {}).get("watts"))


def noted(home: Path, name: str) -> Standing:
    """As its link last noted it, without asking anybody. A link is up while a daemon, or a person, asks it."""
    files = Files.of(home, name)
    said = {"reached": False, "busy": False, "off": False, "why": NOBODY_ASKS, "listed": []}
    found = read_json(files.seen) or {}
    if living(files) is None:
        found = {**found, "reached": False, "busy": False, "why": "" if found.get("off") else NOBODY_ASKS}
    return read(name, {**said, **found})
