"""The seam to whatever reads a job's images: one blocking method, called from many threads at once.

To add an executor: one file, and one line where the daemon opens it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from orchestrator.s3 import Address


class Verdict(StrEnum):
    """What came of one attempt, and with it whose fault it was."""

    READ = "read"  # the result is there
    REFUSED = "refused"  # this image, for good: trying again would end the same
    FAULT = "fault"  # an answer, but not a result: the image may be why
    LOST = "lost"  # sent, and no answer came: the image may be what killed the replica, or it was only near
    UNAVAILABLE = "unavailable"  # nobody took it: it says nothing about the image
    BARRED = "barred"  # the service refuses us whatever the image: somebody has to set something right


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """An image to read. `name` is what the replica is told; it may hold bytes that are not UTF-8 as surrogates."""

    place: Path | Address
    name: str
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a task. `result` is the JSON object of one image when it was read."""

    verdict: Verdict
    reason: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    retry_after_seconds: float | None = None  # of UNAVAILABLE, when the service said


class Executor(Protocol):
    """Where a job's images are read."""

    def read(self, task: Task) -> Outcome:
        """Have one image read. Blocks, within a bound of its own. Raises OSError when the image file cannot be read."""
        ...

    def answers(self) -> bool:
        """Whether somebody is there who would answer. Blocks for a few seconds at most."""
        return True
