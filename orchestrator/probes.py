"""Read a replica's health, and ask it to drain."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import httpx

from orchestrator.authorities import authorities

PROBE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What a replica said of itself."""

    ready: bool
    draining: bool = False
    in_flight: int = 0
    reclaim_at: datetime | None = None  # what its host's watcher has heard
    rebalance_at: datetime | None = None


class Probes(Protocol):
    """How replicas are asked. No answer is None or False, never an exception."""

    def health(self, url: str) -> Health | None: ...

    def drain(self, url: str) -> bool: ...


class HttpProbes:
    """Probes over HTTP, as every replica answers them. Safe to use from several threads."""

    def __init__(self, transport: httpx.BaseTransport | None = None) -> None:
        """`transport`: who is believed to answer where (pinning.py); None: plain HTTP."""
        self._client = httpx.Client(timeout=PROBE_SECONDS, trust_env=False, verify=authorities(), transport=transport)

    def health(self, url: str) -> Health | None:
        try:
            answer = self._client.get(f"{url}/healthz").json()
            return Health(
                ready=answer["status"] == "ready",
                draining=answer["status"] == "draining",
                in_flight=int(answer.get("in_flight", 0)),
                reclaim_at=_moment(answer.get("reclaim_at")),
                rebalance_at=_moment(answer.get("rebalance_at")),
            )
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
            return None  # whatever answers there is not a replica of ours, or not yet

    def drain(self, url: str) -> bool:
        try:
            return self._client.post(f"{url}/drain").is_success
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        self._client.close()


def _moment(said: object) -> datetime | None:
    """None for what is none: a word that nobody understands is no reason to take a replica for dead."""
    try:
        return datetime.fromisoformat(str(said)).astimezone(UTC) if said else None
    except ValueError:
        return None
