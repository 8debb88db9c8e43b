"""The folder in which the page keeps what was uploaded and what can be downloaded: bounded in bytes and in age."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from inference.images import File
from inference.refusals import Refusal

MOST_BYTES = 1 << 30
KEPT_SECONDS = 3600.0  # what was last used longer ago goes
SAFE_SECONDS = 120.0  # what was used since then stays, even where there is no room: somebody is looking at it
PREFIX = "halve-ui-"
GONE = "this upload is no longer kept: upload it again"


class Shelf:
    """Belongs to one process, whose number is in the folder's name; what processes that were killed left is removed."""

    def __init__(
        self, place: Path | None = None, *, most_bytes: int = MOST_BYTES, now: Callable[[], float] = time.time
    ) -> None:
        place = place or Path(tempfile.gettempdir())
        _sweep(place)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=place)).resolve()
        self._most = most_bytes
        self._now = now

    def room(self) -> int:
        """Bytes that may still be put here, after what is old, or in the way and not in use, was removed."""
        now = self._now()
        kept = 0
        for used_at, size, file in sorted(self._files(), reverse=True):
            age = now - used_at
            if age > KEPT_SECONDS or (kept + size > self._most and age > SAFE_SECONDS):
                file.unlink(missing_ok=True)
            else:
                kept += size
        for folder in sorted(self.folder.rglob("*/"), reverse=True):
            with suppress(OSError):  # it is not empty
                if now - folder.stat().st_mtime > SAFE_SECONDS:
                    folder.rmdir()
        return max(0, self._most - kept)

    async def taken(self, upload: Mapping[str, Any], max_bytes: int) -> File:
        """The file that Gradio's `upload` speaks of, at most one byte more than `max_bytes` of it. Raises Refusal."""
        path = Path(str(upload.get("path")))
        if not self.holds(path):
            raise Refusal(400, GONE)
        try:
            content = await asyncio.to_thread(_begin, path, max_bytes + 1)
        except OSError:
            raise Refusal(400, GONE) from None
        return File(str(upload.get("orig_name") or path.name), content)

    def holds(self, path: Path) -> bool:
        """Whether this path is one within the folder."""
        return path.is_absolute() and path.resolve().is_relative_to(self.folder)

    def place(self, name: str) -> Path:
        """A file of this name, in a new folder of its own."""
        return Path(tempfile.mkdtemp(dir=self.folder)) / name

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        for file in self.folder.rglob("*"):
            with suppress(FileNotFoundError):
                if file.is_file():
                    found = file.stat()
                    yield max(found.st_atime, found.st_ctime), found.st_size, file


def _begin(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)


def _sweep(place: Path) -> None:
    for left in place.glob(f"{PREFIX}*"):
        number = left.name.removeprefix(PREFIX).partition("-")[0]
        if number.isdigit() and not _lives(int(number)):
            shutil.rmtree(left, ignore_errors=True)  # another user's stays


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
