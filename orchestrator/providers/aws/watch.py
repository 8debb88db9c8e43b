"""Asks the machines' watchdogs for notices. To be asked is what renews a machine's lease."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx

from orchestrator.providers import Listed, State
from orchestrator.providers.aws.settings import WATCHDOG_PORT, Installation

ASK_SECONDS = 5.0
ANSWER_SECONDS = 2.0
FAN_OUT = 16


def beside_the_engine(url: str) -> str:
    """Where the watchdog of an engine's machine listens."""
    return f"http://{urlsplit(url).hostname}:{WATCHDOG_PORT}"


@dataclass
class Watch:
    """The notices that were heard so far; one that was given is never taken back. Safe to use from several threads."""

    installation: Installation
    watchdog_of: Callable[[str], str] = beside_the_engine
    ask_seconds: float = ASK_SECONDS
    _client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=ANSWER_SECONDS, trust_env=False))
    _heard: dict[str, datetime] = field(default_factory=dict)
    _asked: dict[str, float] = field(default_factory=dict)

    def over(self, machines: Iterable[Listed]) -> list[Listed]:
        """The same machines with what their watchdogs have heard; the earliest moment counts."""
        machines = list(machines)
        running = [one for one in machines if one.state is State.RUNNING and one.url is not None]
        due = [
            one
            for one in running
            if time.monotonic() - self._asked.get(one.token, -self.ask_seconds) >= self.ask_seconds
        ]
        if due:
            with ThreadPoolExecutor(max_workers=min(FAN_OUT, len(due))) as threads:
                list(threads.map(self._ask, due))
        for token in set(self._asked) - {one.token for one in running}:
            self._asked.pop(token, None)
        return [self._told(one) for one in machines]

    def _ask(self, machine: Listed) -> None:
        self._asked[machine.token] = time.monotonic()
        headers = {"Authorization": f"Bearer {self.installation.word(machine.token)}"}
        try:
            url = f"{self.watchdog_of(str(machine.url))}/lease"
            answer = self._client.post(url, headers=headers)
            reclaim_at = answer.json().get("reclaim_at")
            if reclaim_at is not None:
                self._heard[machine.token] = datetime.fromisoformat(reclaim_at).astimezone(UTC)
        except (httpx.HTTPError, ValueError, TypeError, AttributeError):
            pass  # it boots, or it is gone: EC2 knows

    def _told(self, machine: Listed) -> Listed:
        known = [at for at in (machine.reclaim_at, self._heard.get(machine.token)) if at is not None]
        if not known or machine.state is State.GONE or min(known) == machine.reclaim_at:
            return machine
        return replace(machine, reclaim_at=min(known))
