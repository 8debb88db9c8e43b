"""Objects of S3: their address, and what a batch does with them. Who we are, where S3 is and its endpoint are the usual
AWS environment's affair.

What goes wrong comes as an OSError, as with files: FileNotFoundError, PermissionError, or else ConnectionError.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

SCHEME = "s3://"
CONNECT_SECONDS = 5
ANSWER_SECONDS = 60
KEY_BYTES_MAX = 1024
#: requests at once: as many as items may be under way
CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Address:
    """An object, or all objects below a key as below a folder. The key has no slash at its ends."""

    bucket: str
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """`s3://bucket/key`. Raises ValueError when no bucket is named."""
        bucket, _, key = text.removeprefix(SCHEME).partition("/")
        if not text.startswith(SCHEME) or not bucket:
            raise ValueError(f"{text}: want s3://bucket/prefix")
        return cls(bucket, key.strip("/"))

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> "Address":
        return Address(self.bucket, f"{self.key}/{name}" if self.key else name)

    def is_relative_to(self, other: "Address") -> bool:
        """Whether it lies in or below the other one."""
        return self.bucket == other.bucket and (not other.key or f"{self.key}/".startswith(f"{other.key}/"))


def read(address: Address) -> bytes:
    """The object's bytes."""
    with _as_files_do(address):
        return bytes(_client().get_object(Bucket=address.bucket, Key=_sendable(address.key))["Body"].read())


def write(address: Address, content: bytes) -> None:
    """Put an object in its place: whole, or not at all."""
    with _as_files_do(address):
        _client().put_object(Bucket=address.bucket, Key=_sendable(address.key), Body=content)


def upload(address: Address, file: BinaryIO) -> None:
    """Put a file's content in its place, however large it is: whole, or not at all."""
    with _as_files_do(address):
        _client().upload_fileobj(file, address.bucket, _sendable(address.key))


def delete(address: Address) -> None:
    with _as_files_do(address):
        _client().delete_object(Bucket=address.bucket, Key=_sendable(address.key))


def below(address: Address) -> Iterator[str]:
    """The keys of all objects below the address, in order, a page at a time."""
    prefix = f"{address.key}/" if address.key else ""
    with _as_files_do(address):
        pages = _client().get_paginator("list_objects_v2").paginate(Bucket=address.bucket, Prefix=prefix)
        for page in pages:
            yield from (found["Key"] for found in page.get("Contents", ()))


def _sendable(key: str) -> str:
    """A key is UTF-8: bytes of a file name that are not become escapes that lose nothing. Raises OSError: too long."""
    sendable = key.encode("utf-8", "backslashreplace")
    if len(sendable) > KEY_BYTES_MAX:
        raise OSError(errno.ENAMETOOLONG, "a key of S3 has at most 1024 bytes", key)
    return sendable.decode("utf-8")


@lru_cache(maxsize=1)
def _client() -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        config=Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=ANSWER_SECONDS,
            max_pool_connections=CONNECTIONS,
            retries={"mode": "standard", "max_attempts": 3},
        ),
    )


@contextmanager
def _as_files_do(address: Address) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code"))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        words = str(error.response.get("Error", {}).get("Message") or code)
        if status == 404:
            raise FileNotFoundError(errno.ENOENT, words, str(address)) from None
        if status == 403:
            raise PermissionError(errno.EACCES, words, str(address)) from None
        raise ConnectionError(errno.EIO, words, str(address)) from None
    except BotoCoreError as error:
        raise ConnectionError(errno.EIO, " ".join(str(error).split()), str(address)) from None
