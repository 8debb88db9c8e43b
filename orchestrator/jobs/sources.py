"""What a batch is to read: a folder, a glob, a manifest or `s3://…` becomes a list of names.

A name is relative to the job's source. A manifest may also name whole paths and `s3://bucket/key`. Where a result goes
follows from the name alone, and lies inside the destination or nowhere.
"""

import csv
import glob
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from orchestrator import s3
from orchestrator.errors import Refused
from orchestrator.ledger.jobs import Job

#: what counts as an image before anybody has looked into it; the engine has the last word
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})
MANIFESTS = frozenset({".csv", ".jsonl"})
#: the column of a CSV, or the key of a line of JSON, that names the image; without one a CSV's first column does
COLUMNS = ("path", "image", "source")
FORMS = "a folder, a quoted glob, a .csv or .jsonl that lists images, or s3://bucket/prefix"


class Unnameable(Exception):
    """No result can have a name that follows from this one. The reason in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a source holds. `root` is what names are relative to; `walked`: no result may come to lie below it."""

    root: Path | s3.Address
    names: list[str]
    walked: bool


def listed(source: str) -> Listing:
    """The images that a source names. Raises Refused when there are none, or when it cannot be read."""
    if source.startswith(s3.SCHEME):
        found = _in_s3(source)
    elif Path(source).is_dir():
        found = Listing(root=Path(source).resolve(), names=list(images(Path(source).resolve())), walked=True)
    elif Path(source).is_file() and Path(source).suffix.lower() in MANIFESTS:
        found = _in_manifest(Path(source).resolve())
    elif glob.has_magic(source) and not Path(source).exists():
        found = _globbed(source)
    elif Path(source).exists():
        raise Refused(f"source {source}: Not a directory; name {FORMS}")
    else:
        raise Refused(f"source {source}: No such file or directory; name {FORMS}")
    if not found.names:
        raise Refused(f"source {source}: no images in it; these count as images: {' '.join(sorted(SUFFIXES))}")
    return found


def images(source: Path) -> Iterator[str]:
    """The images below a folder as relative names, a folder's files before its subfolders, each in order of names.

    Hidden files and folders are left out, links to folders not followed. Raises Refused when a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        remedy = f"name {FORMS}" if error.filename == str(source) else "allow reading it, or move it away"
        raise Refused(f"source {error.filename}: {error.strerror}; {remedy}")

    for folder, below, files in os.walk(source, onerror=refuse):
        below[:] = sorted(name for name in below if not name.startswith("."))
        relative = Path(folder).relative_to(source)
        for file in sorted(files):
            if file.startswith(".") or Path(file).suffix.lower() not in SUFFIXES:
                continue
            if Path(folder, file).is_file():
                yield str(relative / file)


def location(job: Job, name: str) -> Path | s3.Address:
    """Where the image of that name is to be read."""
    if name.startswith(s3.SCHEME):
        bucket, _, key = name.removeprefix(s3.SCHEME).partition("/")
        return s3.Address(bucket, key)
    return job.source / name


def version(place: Path | s3.Address) -> tuple[int, ...] | None:
    """What differs once a file has been written to or replaced. None for an object of S3, which is read whole.

    Raises OSError when it is not there.
    """
    if isinstance(place, s3.Address):
        return None
    found = place.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def why_gone(root: Path | s3.Address, error: OSError) -> str | None:
    """Why nothing of a source can be read now, after `error` with one of its images; None when others may be."""
    if isinstance(error, ConnectionError):
        return f"{error.filename}: {error.strerror}"
    try:
        there = next(s3.below(root), None) if isinstance(root, s3.Address) else next(root.iterdir(), None)
    except FileNotFoundError:
        there = None
    except OSError as gone:
        return f"{root}: {gone.strerror}"
    return None if there is not None else f"{root}: gone or empty"


def kept_as(name: str) -> str:
    """The name of an item's result without its suffix, relative to the destination.

    Raises Unnameable for a name that would lead out of it, or that another name would share.
    """
    inner = name.removeprefix(s3.SCHEME) if name.startswith(s3.SCHEME) else name.removeprefix("/")
    parts = inner.split("/")
    if ".." in parts:
        raise Unnameable("its name leads out of the folder")
    if "" in parts or "." in parts or "\0" in inner:
        raise Unnameable("its name is no name of a file")
    if parts[0].startswith(".halve-job-"):
        raise Unnameable("its name is one that drafts have")
    return inner


def _globbed(pattern: str) -> Listing:
    """Folders that match are not looked into: `**` does that."""
    fixed = []
    for part in Path(pattern).parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    root = Path(*fixed)
    below = str(Path(pattern).relative_to(root))
    matching = sorted(set(glob.iglob(below, root_dir=root, recursive=True)))  # noqa: PTH207  Path's finds hidden ones
    names = [name for name in matching if Path(name).suffix.lower() in SUFFIXES and (root / name).is_file()]
    return Listing(root=root.resolve(), names=names, walked=False)


def _in_s3(source: str) -> Listing:
    try:
        address = s3.Address.parse(source)
        if PurePosixPath(address.key).suffix.lower() in MANIFESTS:
            folder = s3.Address(address.bucket, address.key.rpartition("/")[0])
            return Listing(root=folder, names=_entries(source, s3.read(address)), walked=False)
        names = [_below(address, key) for key in s3.below(address) if _is_image(address, key)]
    except ValueError as error:
        raise Refused(f"source {error}") from None
    except OSError as error:
        raise Refused(f"source {source}: {error.strerror}; check its name and the AWS_… environment") from None
    return Listing(root=address, names=names, walked=True)


def _is_image(address: s3.Address, key: str) -> bool:
    inner = PurePosixPath(key[len(address.key) :])
    return inner.suffix.lower() in SUFFIXES and not any(part.startswith(".") and part != ".." for part in inner.parts)


def _below(address: s3.Address, key: str) -> str:
    """A key as a name: relative, unless it would then mean another place. A key may be anything, `//` and `..` too."""
    relative = key[len(address.key) + 1 if address.key else 0 :]
    return f"{s3.SCHEME}{address.bucket}/{key}" if relative.startswith(("/", s3.SCHEME)) else relative


def _in_manifest(path: Path) -> Listing:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Refused(f"source {path}: {error.strerror}; allow reading it") from None
    return Listing(root=path.parent, names=_entries(str(path), content), walked=False)


def _entries(manifest: str, content: bytes) -> list[str]:
    """The names that a manifest lists, in its order. Raises Refused with the number of the line that is wrong."""
    text = content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    rows = _json_rows(manifest, text) if manifest.lower().endswith(".jsonl") else _csv_rows(manifest, text)
    names: list[str] = []
    lines: dict[str, int] = {}  # by the place of the result
    for number, name in rows:
        try:
            place = kept_as(name)
        except Unnameable as reason:
            remedy = "write a path below the manifest's folder, a whole path, or s3://bucket/key"
            raise Refused(f"{manifest} line {number}: {name!r}: {reason}; {remedy}") from None
        if place in lines:
            raise Refused(f"{manifest} line {number}: {name!r} is in line {lines[place]} already; name it once")
        lines[place] = number
        names.append(name)
    return names


def _json_rows(manifest: str, text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise Refused(f"{manifest} line {number}: not JSON: {error}") from None
        name = next((value[key] for key in COLUMNS if key in value), None) if isinstance(value, dict) else value
        if not isinstance(name, str) or not name:
            raise Refused(f"{manifest} line {number}: want a name in quotes, or an object with a `path`")
        yield number, name


def _csv_rows(manifest: str, text: str) -> Iterator[tuple[int, str]]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    column = 0
    try:
        for count, row in enumerate(rows):
            if not any(row):
                continue
            heads = [cell.strip().lower() for cell in row]
            if count == 0 and (head := next((name for name in COLUMNS if name in heads), None)):
                column = heads.index(head)
                continue
            if len(row) <= column or not row[column]:
                raise Refused(f"{manifest} line {rows.line_num}: no name in it")
            yield rows.line_num, row[column]
    except csv.Error as error:
        raise Refused(f"{manifest} line {rows.line_num}: {error}") from None
