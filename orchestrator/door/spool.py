"""The door's counts in a file, so that a door which is closed, or killed, has a successor that goes on counting."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from orchestrator.door.loads import KEPT_MINUTES, Counts, Tally

log = logging.getLogger("halve.door")

SPOOL_SECONDS = 5  # how much a door that is killed may forget
SPOOL_MINUTES = 15  # kept that often; the daemon asks for the last ten. Whoever leaves in order keeps all.


@dataclass(frozen=True, slots=True, kw_only=True)
class Spooled:
    """`at` a Unix time, `minutes` by their start. `whole`: nothing was counted after it."""

    at: float
    whole: bool
    uncounted_seconds: float
    minutes: tuple[tuple[int, Tally], ...]


_JSON = TypeAdapter(Spooled)


class Spool:
    """Of one door."""

    def __init__(self, path: Path, counts: Counts, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._counts = counts
        self._now = now

    def restore(self) -> None:
        """Go on where the one before ended. What it had not written down yet is added up as uncounted."""
        try:
            found = _JSON.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            log.warning("%s holds no counts (%s): counting starts anew", self._path, type(error).__name__)
            return
        unknown = 0.0 if found.whole else max(0.0, min(self._now() - found.at, SPOOL_SECONDS))
        self._counts.totals.uncounted_seconds = found.uncounted_seconds + unknown
        self._counts.resume(found.minutes)

    def content(self, *, whole: bool = False) -> bytes:
        """What is to be in the file now; `whole`: the last of it."""
        return _JSON.dump_json(
            Spooled(
                at=self._now(),
                whole=whole,
                uncounted_seconds=self._counts.totals.uncounted_seconds,
                minutes=self._counts.minutes(KEPT_MINUTES if whole else SPOOL_MINUTES),
            )
        )
