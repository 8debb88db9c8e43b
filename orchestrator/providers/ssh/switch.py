"""A host's switch: when it is turned on and off by our commands, and whose end waits for that."""

import logging
import time
from collections.abc import Iterable, Set
from datetime import UTC, datetime
from typing import Any

from orchestrator.providers.ssh import power
from orchestrator.providers.ssh.host import Files, Host

log = logging.getLogger("halve.link")

#: a host that was switched on and has nothing to do is switched off
SPARE_SECONDS = 60.0
#: it may take this long from `start` to an answer
BOOT_SECONDS = 600.0
#: `stop` is tried again after a failure, at the latest after the second
STOP_PAUSE, LONGEST_STOP_PAUSE = 5.0, 300.0
LIVE = ("starting", "running")

#: a replica as a host lists it
Row = dict[str, Any]


class Switch:
    """Turns one host on and off, and remembers since when it is which. Moments are ISO 8601."""

    def __init__(self, host: Host, files: Files) -> None:
        self._host, self._files = host, files
        self._power = power.read(files.power)
        self._failures, self._again_at, self._not_off = 0, 0.0, ""

    @property
    def starts(self) -> bool:
        """Whether there is a command that turns it on."""
        return bool(self._host.start)

    @property
    def is_off(self) -> bool:
        return self._power.off_since is not None

    @property
    def on_since(self) -> str | None:
        """Since when it costs what turning it off will end."""
        return self._power.on_since

    @property
    def ending(self) -> Set[str]:
        """Replicas that were to be ended: it is turned off for them."""
        return frozenset(self._power.ending)

    def has_ended(self, token: str) -> bool:
        """Whether a replica's end was its host's."""
        return token in self._power.ended

    def used(self, now: str) -> None:
        """Something was launched there."""
        if self._host.stop and self._power.on_since is None:
            self._power.on_since = now
            self._keep()

    def to_end(self, token: str) -> None:
        """A replica that lives there is not wanted any more."""
        if self._host.stop and not self.is_off and token not in self.ending:
            self._power.ending.append(token)
            self._keep()

    def saw(self, there: Set[str], listed: Set[str]) -> None:
        """What lives there now, and all that it lists: where others go on, whoever is over has ended its own cost."""
        ending, before = self.ending, (list(self._power.ending), dict(self._power.ended))
        if there - ending and ending - there:
            self._power.ending = [token for token in self._power.ending if token in there]
        self._power.ended = {token: at for token, at in self._power.ended.items() if token in listed}
        if before != (self._power.ending, self._power.ended):
            self._keep()

    def with_the_hosts_end(self, row: Row) -> Row:
        """A replica that was to be ended has not ended its cost before its host is off."""
        token = row["token"]
        if token in self._power.ended:
            return {**row, "state": "gone", "ended_at": self._power.ended[token], "url": None}
        if row["state"] == "gone" and token in self.ending:
            detail = f"its host was not switched off: {self._not_off}" if self._not_off else "its host is switched off"
            return {**row, "state": "running", "ended_at": None, "url": None, "detail": detail}
        return row

    def paid_since(self, now: str, rows: Iterable[Row]) -> str:
        """Since when a launch at `now` costs: a host that was on for nobody has cost since its last replica ended."""
        if self._power.on_since is None:
            return now
        ends = [row["ended_at"] for row in rows if row["ended_at"]]
        free: str = max((self._power.on_since, *ends), key=datetime.fromisoformat)
        return min(now, free, key=datetime.fromisoformat)

    def is_due(self, there: Set[str], *, reached: bool, spare_seconds: float) -> bool:
        """Whether to turn it off: what was `there` is over or was to be ended, or nothing has run for long."""
        if not self._host.stop or self.is_off or time.monotonic() < self._again_at or there - self.ending:
            return False
        if self._power.ending:
            return not reached or not there
        return self._power.on_since is not None and spare_seconds > (SPARE_SECONDS if reached else BOOT_SECONDS)

    async def turn_on(self) -> str | None:
        """Run `start`. None when it succeeded: it costs from when that began; else why not."""
        began = datetime.now(UTC)
        why = await power.command(self._host.start, self._host.command_seconds, self._files.commands_log, began)
        if why is not None:
            self._power.off_since = self._power.off_since or began.isoformat()
            return why
        self._power.off_since = None
        self._power.on_since = began.isoformat() if self._host.stop else None
        self._keep()
        log.info("%s: switched on", self._host.name)
        return None

    async def turn_off(self, rows: Iterable[Row]) -> bool:
        """Run `stop`. True when it succeeded: what lived there, or was the last to, has cost until now."""
        began = datetime.now(UTC)
        why = await power.command(self._host.stop, self._host.command_seconds, self._files.commands_log, began)
        if why is not None:
            self._failures += 1
            pause = min(STOP_PAUSE * (1 << min(self._failures - 1, 10)), LONGEST_STOP_PAUSE)
            self._again_at = time.monotonic() + pause
            self._not_off = why
            log.error("%s was not switched off, and goes on costing: %s", self._host.name, why)
            return False
        at = datetime.now(UTC).isoformat()
        rows = list(rows)
        over = {row["token"] for row in rows if row["state"] in LIVE} or self._last_ended(rows)
        self._power.ended |= dict.fromkeys(over, at)
        self._power.on_since, self._power.off_since, self._power.ending = None, at, []
        self._keep()
        self._failures, self._again_at, self._not_off = 0, 0.0, ""
        log.info("%s: switched off", self._host.name)
        return True

    def _last_ended(self, rows: Iterable[Row]) -> set[str]:
        """What ended by itself and left the host on for nobody: it has cost until now."""
        if self._power.on_since is None:
            return set()
        since = datetime.fromisoformat(self._power.on_since)
        ends = {row["token"]: datetime.fromisoformat(row["ended_at"]) for row in rows if row["ended_at"]}
        last = max(ends, key=lambda token: ends[token], default=None)
        return set() if last is None or ends[last] < since else {last}

    def _keep(self) -> None:
        try:
            power.keep(self._files.power, self._power)
        except OSError as error:  # it is known as long as this process lives
            log.error("%s: %s", error.filename, error.strerror)
