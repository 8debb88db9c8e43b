"""What the door itself answers."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from aiohttp import web
from multidict import CIMultiDict

from orchestrator.door.serving import ServingSet

CLOSED_SECONDS = 3600  # Retry-After when nobody knows when it opens
AGAIN_SECONDS = 5  # Retry-After when it is open but nobody is there


@dataclass(frozen=True, slots=True)
class Refusal:
    """A 503 with a time to come again."""

    seconds: int
    says: Mapping[str, object]

    def to(self, identity: str) -> web.Response:
        return reply(503, self.says, identity, retry_after=self.seconds)


def closed(serving: ServingSet) -> Refusal:
    """Outside the opening hours."""
    seconds = CLOSED_SECONDS if serving.opens_at is None else max(1, _until(serving.opens_at))
    opens_at = serving.opens_at.isoformat().replace("+00:00", "Z") if serving.opens_at else None
    return Refusal(seconds, {"error": "closed", "reason": serving.reason, "opens_at": opens_at})


def absent(reason: str, seconds: int = AGAIN_SECONDS) -> Refusal:
    """Open, but nobody is there."""
    return Refusal(seconds, {"error": "unavailable", "reason": reason})


def unserved(serving: ServingSet) -> Refusal:
    """Open, but nobody is there, and nobody is on the way."""
    reason, at = "no replica serves now", serving.again_at
    if at is None or (seconds := _until(at)) <= 0:
        return absent(reason)
    return absent(f"{reason}, and none can be started before {at.astimezone(UTC):%H:%M:%S} UTC", seconds)


def _until(moment: datetime) -> int:
    return math.ceil((moment - datetime.now(UTC)).total_seconds())


def reply(
    status: int,
    says: Mapping[str, object],
    identity: str | None = None,
    *,
    retry_after: int | None = None,
    close: bool = False,
) -> web.Response:
    """The door's own answer, as JSON."""
    headers: CIMultiDict[str] = CIMultiDict({"Server": "halve", "Content-Type": "application/json"})
    if identity:
        headers["X-Request-Id"] = identity
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    response = web.Response(status=status, headers=headers, body=json.dumps(says).encode() + b"\n")
    if close:
        response.force_close()
    return response


def too_often(seconds: float, identity: str) -> web.Response:
    """More than the deployment's rate limit."""
    says = {"error": "too many requests", "reason": "this deployment's door.rate_limit is used up"}
    return reply(429, says, identity, retry_after=max(1, math.ceil(seconds)))


def too_large(identity: str) -> web.Response:
    return reply(413, {"error": "too large", "reason": "a body has at most 64 MiB"}, identity, close=True)
