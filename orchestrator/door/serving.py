"""What the daemon tells the door: which replicas serve a deployment, and whether it is open at all."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, AwareDatetime, Field, TypeAdapter

log = logging.getLogger("halve.door")


def _address(url: str) -> str:
    parsed = urlsplit(url)
    if parsed.scheme not in ("http", "https") or not parsed.hostname or not parsed.port or parsed.path not in ("", "/"):
        raise ValueError(f"a replica's url is http(s)://HOST:PORT, not {url!r}")
    return url


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A replica that may get requests. `weight` is its measured throughput, in any unit that the whole set shares."""

    id: str
    url: Annotated[str, AfterValidator(_address)]
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most so many recognition requests, all callers together; a batch's are not among them. `burst` at once."""

    per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    burst: Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSet:
    """Everything the door has to know. `starting`: where none serves, one may be expected, so requests wait for it;
    where not, `again_at` is when one may be launched at the earliest, as far as that is known.
    """

    deployment: str
    open: bool
    opens_at: AwareDatetime | None = None
    reason: str = ""
    starting: bool = False
    again_at: AwareDatetime | None = None
    rate_limit: RateLimit | None = None  # None: as often as they like
    replicas: tuple[Replica, ...] = ()


_JSON = TypeAdapter(ServingSet)


def to_json(serving: ServingSet) -> bytes:
    """The file's content. Raises ValueError when the set says something that a door would not take."""
    content = _JSON.dump_json(serving, indent=1)
    from_json(content)
    return content


def from_json(content: bytes) -> ServingSet:
    """Raises ValueError when it is not a whole, sound serving set."""
    serving = _JSON.validate_json(content)
    if len({replica.id for replica in serving.replicas}) < len(serving.replicas):
        raise ValueError("two replicas have one id")
    return serving


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file so that a reader, or a crash, sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


class Published:
    """The serving set in a file, as last read whole. A file that is absent or garbage changes nothing but the log."""

    def __init__(self, path: Path, deployment: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._now = now
        self._seen: tuple[int, int, int] | None = None
        # Until the daemon has spoken a replica may be on its way: hold requests rather than turn them away.
        self.serving = ServingSet(deployment=deployment, open=True, starting=True, reason="nothing published yet")
        self.version = 0  # modification time of the file that `serving` came from, in nanoseconds

    def refresh(self) -> bool:
        """Look at the file, and at the clock, once more; True when that made another set.

        At `opens_at` it is open, told so or not: a daemon that is away at that moment is a replica that starts.
        """
        changed = self._read()
        serving = self.serving
        if not serving.open and serving.opens_at is not None and serving.opens_at <= self._now():
            self.serving = replace(serving, open=True, starting=True, reason="it opens now")
            changed = True
        return changed

    def _read(self) -> bool:
        """True when the file held another sound set."""
        try:
            found = self._path.stat()
            mark = (found.st_ino, found.st_mtime_ns, found.st_size)
            if mark == self._seen:
                return False
            self._seen = mark
            serving = from_json(self._path.read_bytes())
            if serving.deployment != self.serving.deployment:
                raise ValueError(f"it is about the deployment {serving.deployment!r}")
        except FileNotFoundError:
            if self._seen is not None:
                self._seen = None
                log.warning("%s is gone; keeping the set read before", self._path)
            return False
        except (OSError, ValueError) as error:
            log.warning("%s is no serving set (%s); keeping the set read before", self._path, _short(error))
            return False
        self.version = mark[1]
        changed = serving != self.serving
        self.serving = serving
        return changed


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
