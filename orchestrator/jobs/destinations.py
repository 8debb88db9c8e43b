"""Where a job's results go: a folder, or S3. A result is there whole or not at all.

Drafts in a folder lie in a hidden one of it until they are on the disk; S3 has a thing whole or not at all by itself.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from orchestrator import s3
from orchestrator.jobs.sources import Unnameable, kept_as
from orchestrator.ledger.jobs import Job

#: the destination cannot have a file of this name: that is about the item, not about the disk
NAME_ERRORS = frozenset({errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EILSEQ, errno.EINVAL})


class Destination(Protocol):
    """Takes results. Every method blocks, and raises OSError when the place takes or gives nothing now."""

    def keep(self, name: str, draft: str, content: bytes, still_wanted: Callable[[], bool]) -> bool:
        """Put the result of an item in its place; whoever did so before is replaced. False: no longer wanted.

        Raises Unnameable, leaving nothing.
        """
        ...

    def kept(self, name: str) -> bytes | None:
        """The result of an item; None when it is not there."""
        ...

    def whole(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A file to write that takes its place once it is complete."""
        ...

    def probe(self, size: int) -> None:
        """Write a file of some size, and remove it."""
        ...

    def clear(self) -> None:
        """Remove the drafts that a crash has left."""
        ...


def of(job: Job) -> Destination:
    """The destination of a job."""
    if isinstance(job.destination, s3.Address):
        return Prefix(job.destination)
    return Folder(job.destination, f".halve-job-{job.id}")


class Folder:
    """A folder of a file system."""

    def __init__(self, path: Path, drafts: str) -> None:
        self._path = path
        self._drafts = path / drafts

    def keep(self, name: str, draft: str, content: bytes, still_wanted: Callable[[], bool]) -> bool:
        target = self._path / f"{kept_as(name)}.json"
        written = self._drafts / draft
        try:
            with _on_disk(written) as file:
                file.write(content)
            if not still_wanted():
                return False
            with _named(target.name):
                target.parent.mkdir(parents=True, exist_ok=True)
                written.replace(target)
            _sync(target.parent)
        finally:
            with suppress(OSError):
                written.unlink()
        return True

    def kept(self, name: str) -> bytes | None:
        try:
            return (self._path / f"{kept_as(name)}.json").read_bytes()
        except FileNotFoundError:
            return None

    @contextmanager
    def whole(self, name: str) -> Iterator[BinaryIO]:
        draft = self._drafts / name
        with _on_disk(draft) as file:
            yield file
        draft.replace(self._path / name)
        _sync(self._path)

    def probe(self, size: int) -> None:
        probe = self._drafts / "probe"
        try:
            with _on_disk(probe) as file:
                file.write(bytes(size))
        finally:
            with suppress(OSError):
                probe.unlink()

    def clear(self) -> None:
        shutil.rmtree(self._drafts, ignore_errors=True)


class Prefix:
    """All objects below a key of S3."""

    def __init__(self, address: s3.Address) -> None:
        self._address = address

    def keep(self, name: str, draft: str, content: bytes, still_wanted: Callable[[], bool]) -> bool:
        target = self._address / f"{kept_as(name)}.json"
        if not still_wanted():
            return False
        with _named(target.key):
            s3.write(target, content)
        return True

    def kept(self, name: str) -> bytes | None:
        try:
            return s3.read(self._address / f"{kept_as(name)}.json")
        except FileNotFoundError:
            return None

    @contextmanager
    def whole(self, name: str) -> Iterator[BinaryIO]:
        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            s3.upload(self._address / name, file)

    def probe(self, size: int) -> None:
        probe = self._address / ".halve-probe"
        s3.write(probe, b"")
        s3.delete(probe)

    def clear(self) -> None:
        pass


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NAME_ERRORS:
            raise
        raise Unnameable(f"no result of the name {name!r} can be written: {error.strerror}") from None


@contextmanager
def _on_disk(draft: Path) -> Iterator[BinaryIO]:
    """A new file that is on the disk once it is closed."""
    draft.parent.mkdir(parents=True, exist_ok=True)
    with draft.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make a rename in the folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
