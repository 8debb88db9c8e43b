"""What EC2 forgets of a machine: when it was first started, when it stood still, when it ended.

One small file per machine in HALVE_HOME/aws; without it a machine is as EC2 tells it now.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from orchestrator.files import read_json, write_json
from orchestrator.providers import Unreachable

Stops = tuple[tuple[datetime, datetime | None], ...]
#: EC2 lists what has ended for about an hour; nobody asks for it later
KEPT = timedelta(days=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What was seen of a machine, and would not be seen again."""

    launched_at: datetime
    started_at: datetime  # as EC2 said last: it changes whenever the machine is switched on
    stops: Stops = ()
    ended_at: datetime | None = None
    reclaim_at: datetime | None = None  # as the queue of notices has said once
    rebalance_at: datetime | None = None  # and this
    missing_since: datetime | None = None  # EC2 says that it knows no such machine

    def started(self, at: datetime) -> "Past":
        """It runs, and was last switched on then."""
        if at <= self.started_at:
            return self
        *before, last = self.stops or ((at, None),)
        # a stop that nobody saw has lasted no time that is known
        stop = (last[0], at) if last[1] is None else (at, at)
        kept = before if last[1] is None else [*before, last]
        return replace(self, started_at=at, stops=(*kept, stop))

    def stopped(self, at: datetime) -> "Past":
        """It stands still since then."""
        if self.stops and self.stops[-1][1] is None:
            return self
        return replace(self, stops=(*self.stops, (max(at, self.started_at), None)))


class Memory:
    """The pasts of all machines. What cannot be kept raises Unreachable: an end that moves would be billed wrongly."""

    def __init__(self, home: Path) -> None:
        self._folder = home.absolute() / "aws"

    def of(self, instance_id: str) -> Past | None:
        """What was kept, by this process or another one."""
        said = read_json(self._path(instance_id))
        return None if said is None else _past(said)

    def keep(self, instance_id: str, past: Past) -> Past:
        """Write it down unless it is known. Returns it."""
        if self.of(instance_id) != past:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                write_json(self._path(instance_id), _json(past))
            except OSError as error:
                raise Unreachable(f"{self._folder}: {error.strerror or error}") from None
        return past

    def forget(self, now: datetime) -> None:
        """Let go of what ended long ago."""
        for path in self._folder.glob("i-*.json"):
            past = self.of(path.stem)
            if past is not None and past.ended_at is not None and now - past.ended_at > KEPT:
                path.unlink(missing_ok=True)

    def _path(self, instance_id: str) -> Path:
        return self._folder / f"{instance_id}.json"


def _json(past: Past) -> dict[str, Any]:
    def said(at: datetime | None) -> str | None:
        return None if at is None else at.isoformat()

    return {
        "launched_at": said(past.launched_at),
        "started_at": said(past.started_at),
        "stops": [[said(off), said(on)] for off, on in past.stops],
        "ended_at": said(past.ended_at),
        "reclaim_at": said(past.reclaim_at),
        "rebalance_at": said(past.rebalance_at),
        "missing_since": said(past.missing_since),
    }


def _past(said: Mapping[str, Any]) -> Past | None:
    """None for what no version has written."""

    def at(text: str | None) -> datetime | None:
        return None if text is None else datetime.fromisoformat(text)

    try:
        return Past(
            launched_at=datetime.fromisoformat(said["launched_at"]),
            started_at=datetime.fromisoformat(said["started_at"]),
            stops=tuple((datetime.fromisoformat(off), at(on)) for off, on in said["stops"]),
            ended_at=at(said["ended_at"]),
            reclaim_at=at(said.get("reclaim_at")),  # versions before this one wrote none
            rebalance_at=at(said.get("rebalance_at")),
            missing_since=at(said["missing_since"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
