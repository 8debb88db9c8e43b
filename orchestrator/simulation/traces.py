"""Traces of spot availability. One polarity everywhere: a value is how many instances can be had in a tick, 0 is none.

Other public copies of the same traces hold the opposite (1 = the launch failed); they must be turned over before they
come here.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import Refused

MOST_INSTANCES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Zones watched together: `counts[zone, tick]` instances obtainable, one tick every `tick_seconds`."""

    names: tuple[str, ...]
    tick_seconds: int
    counts: NDArray[np.int64]
    notes: tuple[str, ...] = ()

    @property
    def up(self) -> NDArray[np.bool_]:
        """Whether at least one instance can be had, by [zone, tick]."""
        return self.counts > 0

    @property
    def ticks(self) -> int:
        return int(self.counts.shape[1])


def load(files: Sequence[Path]) -> Trace:
    """Read one file per zone. Zones start together; of unequal lengths the common prefix is used, with a note.

    Raises Refused, naming file and field, for what is not such a file and for unequal gaps.
    """
    if not files:
        raise Refused("no trace file was given")
    read = [_read(file) for file in files]
    gap = read[0][0]
    for file, (other, _) in zip(files, read, strict=True):
        if other != gap:
            raise Refused(
                f"{file}: metadata.gap_seconds is {other}, but {files[0]} has {gap}: zones need the same tick"
            )
    lengths = [len(data) for _, data in read]
    shortest = min(lengths)
    notes = []
    if max(lengths) > shortest:
        short = files[lengths.index(shortest)]
        notes.append(f"traces of unequal length: only the first {shortest} ticks are used ({short} has no more)")
    names = [file.stem for file in files]
    unique = names if len(set(names)) == len(names) else [str(file) for file in files]
    counts = np.array([data[:shortest] for _, data in read], dtype=np.int64)
    return Trace(names=tuple(unique), tick_seconds=gap, counts=counts, notes=tuple(notes))


def save(file: Path, counts: Sequence[int], tick_seconds: int) -> None:
    """Write one zone in the form that `load` reads. Raises Refused when the file cannot be written."""
    text = json.dumps({"metadata": {"gap_seconds": tick_seconds}, "data": [int(count) for count in counts]})
    try:
        file.write_text(text + "\n")
    except OSError as error:
        raise Refused(f"{file}: cannot be written: {error.strerror}") from None


def _read(file: Path) -> tuple[int, list[int]]:
    try:
        content = json.loads(file.read_text())
    except OSError as error:
        raise Refused(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise Refused(f"{file}: not JSON; a trace is {{'metadata': {{'gap_seconds': G}}, 'data': [n, ...]}}") from None
    if not isinstance(content, dict):
        raise Refused(f"{file}: must be an object with metadata and data, not {_kind(content)}")
    metadata = content.get("metadata")
    if not isinstance(metadata, dict) or "gap_seconds" not in metadata:
        raise Refused(f"{file}: metadata.gap_seconds is missing")
    gap = metadata["gap_seconds"]
    if type(gap) not in (int, float) or not 1 <= gap <= 86400 or gap != int(gap):
        raise Refused(f"{file}: metadata.gap_seconds must be whole seconds from 1 to 86400, not {_shown(gap)}")
    data = content.get("data")
    if not isinstance(data, list) or not data:
        raise Refused(f"{file}: data must be a list of at least one number")
    for tick, count in enumerate(data):
        if type(count) not in (int, float) or not abs(count) <= MOST_INSTANCES or count != int(count):
            raise Refused(f"{file}: data[{tick}] must be a whole number of instances, not {_shown(count)}")
        if count < 0:
            raise Refused(f"{file}: data[{tick}] is {count}: a number of instances cannot be negative")
    return int(gap), [int(count) for count in data]


def _kind(content: object) -> str:
    return {list: "a list", str: "a text", type(None): "nothing"}.get(type(content), "a number")


def _shown(value: object) -> str:
    """As it stands in the file, cut short: a text in its quotes, so that it is not taken for a number."""
    return json.dumps(value)[:40]
