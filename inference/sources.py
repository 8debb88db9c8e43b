"""Images that a request names instead of sending: files and S3 objects, only from where the replica was told it may."""

import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from inference.images import File
from inference.refusals import Refusal

CONNECT_SECONDS, READ_SECONDS = 5, 20  # a store that is gone must not keep the threads in which others are served


class UnknownSource(Exception):
    """What was allowed is neither an existing folder nor an S3 bucket. One line that says how to write it."""


class Sources:
    """What may be read by name: `file:///folder` and `s3://bucket/prefix`. Without any, nothing may."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        """Raises UnknownSource."""
        self._folders: list[Path] = []
        self._prefixes: list[tuple[str, str]] = []
        self._client: Any = None
        self._making_client = threading.Lock()
        for source in allowed:
            scheme, bucket, path = _parts(source)
            if scheme == "file" and not bucket and path and Path(path).is_dir():
                self._folders.append(Path(path).resolve())
            elif scheme == "s3" and bucket:
                self._prefixes.append((bucket, path.strip("/")))
            else:
                raise UnknownSource(f"{source}: name an existing file:///folder or an s3://bucket/prefix")

    @property
    def named(self) -> list[str]:
        """What may be read, as those who name it should: whatever begins with one of these and a slash."""
        folders = [folder.as_uri() for folder in self._folders]
        return folders + ["/".join(filter(None, (f"s3://{bucket}", prefix))) for bucket, prefix in self._prefixes]

    def read(self, source: str, max_bytes: int) -> File:
        """The file, with its last name. Blocks.

        Raises Refusal: 400 not an address, 403 not allowed, 404 not there, 413 too large, 502 S3 does not answer.
        """
        scheme, bucket, path = _parts(source)
        if scheme == "file" and ("?" in source or "#" in source):
            raise Refusal(400, f"{source[:200]}: in a file's address ? is written %3F, and # %23")
        if scheme not in ("file", "s3") or not path or "\0" in path:
            raise Refusal(400, f"{source[:200]}: not a file:///… or s3://… address")
        name = PurePosixPath(path).name or "image"
        if scheme == "file":
            return File(name, _file(source, self._inside(source, bucket, path), max_bytes))
        return File(name, self._object(source, bucket, path, max_bytes))

    def _inside(self, source: str, host: str, path: str) -> tuple[Path, tuple[str, ...]]:
        """The allowed folder and the names from there on. Nothing of this touches the disk, so that whoever asks
        learns nothing of what lies outside."""
        named = PurePosixPath(path)
        for folder in self._folders:
            if not host and named.is_relative_to(folder) and ".." not in named.parts:
                return folder, named.relative_to(folder).parts
        raise _not_allowed(source)

    def _object(self, source: str, bucket: str, path: str, max_bytes: int) -> bytes:
        key = path.removeprefix("/")
        allowed = [prefix for name, prefix in self._prefixes if name == bucket]
        # some stores that speak S3 keep objects as files: no key climbs out of its prefix there
        if ".." in key.split("/") or not any(not prefix or key.startswith(f"{prefix}/") for prefix in allowed):
            raise _not_allowed(source)
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            found = self._s3().get_object(Bucket=bucket, Key=key)
            with found["Body"] as body:
                return _bounded(source, found["ContentLength"], body.read(max_bytes + 1), max_bytes)
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 502)
            raise Refusal(404 if status == 404 else 502, f"{source}: {error.response['Error'].get('Code')}") from None
        except BotoCoreError as error:
            raise Refusal(502, f"{source}: {error}") from None

    def _s3(self) -> Any:
        """One for all: clients may be used by several threads, but made by one at a time only (boto3's guide)."""
        import boto3  # only where a bucket was allowed
        from botocore.config import Config

        with self._making_client:
            if self._client is None:
                patience = Config(
                    connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries={"total_max_attempts": 2}
                )
                self._client = boto3.client("s3", config=patience)
            return self._client


def _parts(source: str) -> tuple[str, str, str]:
    """Scheme, host or bucket, path; all empty when it is no address. What follows an S3 bucket is the key as it is."""
    if source.startswith("s3://"):
        bucket, slash, key = source.removeprefix("s3://").partition("/")
        return "s3", bucket, slash + key
    try:
        split = urlsplit(source)
    except ValueError:
        return "", "", ""
    return split.scheme, split.netloc, unquote(split.path, errors="surrogateescape")


def _file(source: str, place: tuple[Path, tuple[str, ...]], max_bytes: int) -> bytes:
    """Opened name by name and never through a link: a link made while we look cannot lead us out of the folder."""
    folder, names = place
    opened = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY)]
    try:
        for number, name in enumerate(names, start=1):
            kind = os.O_DIRECTORY if number < len(names) else os.O_NONBLOCK  # a pipe must not keep us waiting
            opened.append(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | kind, dir_fd=opened[-1]))
        found = os.fstat(opened[-1])
        if not stat.S_ISREG(found.st_mode):
            raise Refusal(404, f"{source}: not a file")
        with os.fdopen(os.dup(opened[-1]), "rb") as file:
            return _bounded(source, found.st_size, file.read(max_bytes + 1), max_bytes)
    except (OSError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or "no such name"
        raise Refusal(404, f"{source}: {reason} (links are not followed)") from None
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _bounded(source: str, size: int, content: bytes, max_bytes: int) -> bytes:
    if max(size, len(content)) > max_bytes:
        raise Refusal(413, f"{source}: {max(size, len(content)):,} bytes; at most {max_bytes:,}")
    return content


def _not_allowed(source: str) -> Refusal:
    return Refusal(403, f"{source[:200]}: not within what this replica may read (its option --allow-source)")
