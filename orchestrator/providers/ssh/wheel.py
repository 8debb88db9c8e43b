"""The wheel that a host is given: this very program, packed once, and known by the hash of what is in it."""

import base64
import hashlib
import secrets
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import orchestrator

PACKAGES = ("inference", "orchestrator", "policies")
#: the same content is the same file, whenever it is packed
_EPOCH = (1980, 1, 1, 0, 0, 0)


def packed(folder: Path) -> Path:
    """The wheel in this folder, packed unless it is there. Raises OSError."""
    path = folder / digest() / f"halve-{orchestrator.__version__}-py3-none-any.whl"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{secrets.token_hex(4)}")  # links of several hosts pack at the same time
    try:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in _members():
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return path


@cache
def digest() -> str:
    """A hash of all that is in the wheel: 16 hex digits."""
    found = hashlib.sha256()
    for name, content in _members():
        found.update(f"{name} {len(content)} ".encode())
        found.update(content)
    return found.hexdigest()[:16]


def _members() -> Iterator[tuple[str, bytes]]:
    """Every file of the wheel in its order, the record of them last."""
    record = []
    for name, content in (*_sources(), *_description()):
        written = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={written},{len(content)}")
        yield name, content
    own = f"{_dist_info()}/RECORD"
    yield own, "".join(f"{line}\n" for line in (*record, f"{own},,")).encode()


def _sources() -> Iterator[tuple[str, bytes]]:
    top = Path(orchestrator.__file__).parent.parent
    for package in PACKAGES:
        for path in sorted((top / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(top).as_posix(), path.read_bytes()


def _description() -> Iterator[tuple[str, bytes]]:
    try:
        said = distribution("halve").metadata
        needed = [
            f"{key}: {value}"
            for key in ("Requires-Python", "Provides-Extra", "Requires-Dist")
            for value in said.get_all(key) or ()
        ]
    except PackageNotFoundError:
        needed = []
    metadata = ["Metadata-Version: 2.1", "Name: halve", f"Version: {orchestrator.__version__}", *needed]
    yield f"{_dist_info()}/METADATA", "".join(f"{line}\n" for line in metadata).encode()
    wheel = ["Wheel-Version: 1.0", "Generator: halve", "Root-Is-Purelib: true", "Tag: py3-none-any"]
    yield f"{_dist_info()}/WHEEL", "".join(f"{line}\n" for line in wheel).encode()


def _dist_info() -> str:
    return f"halve-{orchestrator.__version__}.dist-info"
