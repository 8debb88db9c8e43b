"""Asks the machines' watchdogs for notices. To be asked is what renews a machine's lease.

Only who has proved to be the machine is asked, and only that one's address is told to anybody: contact.py says how.
"""

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

import httpx

from orchestrator.providers import Listed, State, earliest, recommended
from orchestrator.providers.aws.contact import Contacts
from orchestrator.providers.aws.settings import Installation

ASK_SECONDS = 5.0
ANSWER_SECONDS = 2.0
FAN_OUT = 16
#: moments that a watchdog tells
SAID = ("reclaim_at", "rebalance_at")


class Watching(Protocol):
    """What a listing gains by the machines themselves being asked."""

    def over(self, machines: Iterable[Listed]) -> list[Listed]: ...


@dataclass
class Watch:
    """The notices that were heard so far; one that was given is never taken back. Safe to use from several threads."""

    installation: Installation
    contacts: Contacts
    ask_seconds: float = ASK_SECONDS
    _heard: dict[tuple[str, str], datetime] = field(default_factory=dict)  # by launch token, and what was said
    _asked: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._client = httpx.Client(timeout=ANSWER_SECONDS, trust_env=False, transport=self.contacts.pins.transport())

    def over(self, machines: Iterable[Listed]) -> list[Listed]:
        """The same machines with what their watchdogs have heard, the earliest moment counts; one that has not proved
        who it is has no address."""
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
        for one in machines:
            if one.state is State.GONE:
                self.contacts.forget(one)
        return [self._told(one) for one in machines]

    def _ask(self, machine: Listed) -> None:
        self._asked[machine.token] = time.monotonic()
        if self.contacts.place(machine) is None:
            self.contacts.meet(machine)
        place = self.contacts.place(machine)
        if place is None:
            return
        headers = {"Authorization": f"Bearer {self.installation.word(machine.token)}"}
        try:
            answer = self._client.post(f"{place.watchdog}/lease", headers=headers)
            said = answer.json()
            for what in SAID:
                if said.get(what) is not None:
                    self._heard[machine.token, what] = datetime.fromisoformat(said[what]).astimezone(UTC)
        except (httpx.HTTPError, ValueError, TypeError, AttributeError):
            pass  # it boots, or it is gone: EC2 knows

    def _told(self, machine: Listed) -> Listed:
        if machine.state is State.GONE:
            return replace(machine, url=None)
        place = self.contacts.place(machine)
        return replace(
            machine,
            url=place.engine if place else None,
            reclaim_at=earliest(machine.reclaim_at, self._heard.get((machine.token, "reclaim_at"))),
            rebalance_at=recommended(machine.rebalance_at, self._heard.get((machine.token, "rebalance_at"))),
        )
