"""The wheels that machines fetch: each lies in the bucket under the hash of its content, and is never replaced."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.providers import Misconfigured
from orchestrator.providers.aws import clients, refusals

#: said by S3 of what is there already
THERE = {"PreconditionFailed", "ConditionalRequestConflict"}
#: said by S3 of what only a person can mend
NEVER = {"NoSuchBucket", "AccessDenied", "AllAccessDisabled", "InvalidBucketName"}


class Wheels:
    """Puts each wheel into its bucket once. Safe to use from several threads."""

    def __init__(self, home: Path) -> None:
        self._folder = home.absolute() / "wheels"
        self._there: set[tuple[str, str]] = set()

    def ensure(self, bucket: str, wheel: Mapping[str, str], region: str) -> None:
        """Have a wheel in the bucket. Raises Misconfigured, Throttled or Unreachable."""
        key, sha256 = wheel["key"], wheel["sha256"]
        if (bucket, key) in self._there:
            return
        content = self._content(sha256)
        if content is None:  # packed by another halve, which had put it there before it launched anything
            return
        try:
            clients.client("s3", region).put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
        except (ClientError, BotoCoreError) as error:
            code = refusals.code_of(error) if isinstance(error, ClientError) else ""
            if code in NEVER:
                raise Misconfigured(f"aws.bucket {bucket}: {code}") from None
            if code not in THERE:
                raise refusals.of_look(error) from None
        self._there.add((bucket, key))

    def _content(self, sha256: str) -> bytes | None:
        for path in sorted(self._folder.glob("*/*.whl")):
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() == sha256:
                return content
        return None
