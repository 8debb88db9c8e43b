"""One thing that `halve doctor` looked at."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "bad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """`bad` stands in the way; a `note` does not, but may cost something. The remedy is "" where none is needed."""

    check: str
    state: State
    found: str
    remedy: str = ""
