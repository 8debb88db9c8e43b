"""How many items a replica takes at once, by what it says of itself."""

import time
from collections.abc import Iterable
from typing import Any

import httpx

from orchestrator.authorities import authorities

#: of a replica that has not said how many workers it has
UNKNOWN = 4
#: one is read, one waits behind it: a worker, or a batch, that is done finds the next one there
AHEAD = 2
#: a replica's queue holds so many; what is more is refused
MOST = 64
ASK_SECONDS = 2.0
#: one that did not answer is asked again after this long
AGAIN_SECONDS = 10.0


class Room:
    """Asks each replica once: it has as many workers, and as large batches, for as long as it lives."""

    def __init__(self) -> None:
        self._http = httpx.Client(timeout=ASK_SECONDS, trust_env=False, verify=authorities())
        self._said: dict[str, int] = {}
        self._ask_at: dict[str, float] = {}  # on the monotonic clock

    def of(self, urls: Iterable[str | None]) -> int:
        """Of all these replicas together. Blocks for a replica that is new."""
        asked = list(urls)
        self._said = {url: count for url, count in self._said.items() if url in asked}
        self._ask_at = {url: at for url, at in self._ask_at.items() if url in asked}
        return sum(UNKNOWN if url is None else self._one(url) for url in asked)

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()

    def _one(self, url: str) -> int:
        if url not in self._said and self._ask_at.get(url, 0.0) <= time.monotonic():
            try:
                self._said[url] = taken_at_once(self._http.get(f"{url}/healthz").json())
            except (httpx.HTTPError, httpx.InvalidURL, ValueError):
                self._ask_at[url] = time.monotonic() + AGAIN_SECONDS
        return self._said.get(url, UNKNOWN)


def taken_at_once(health: Any) -> int:
    """By a replica's health: its workers read one image each, an accelerator reads a batch at once."""
    said = health if isinstance(health, dict) else {}
    batches = said.get("batches")
    counts = [said.get("workers"), *(batches.values() if isinstance(batches, dict) else ())]
    known = [count for count in counts if isinstance(count, int) and count > 0]
    return min(MOST, AHEAD * max(known)) if known else UNKNOWN
