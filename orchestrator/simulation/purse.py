"""What a deployment has spent by the market's own meter, and by how much it has passed a hard budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.invariants import Overspent
from orchestrator.providers.rental import Rented
from orchestrator.simulation.shared_market import SharedMarket
from policies.budget import Brake
from policies.decide import Policy

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    """The last look at which a limit was not passed, or at which nobody could have kept it."""

    at: datetime
    limit: int
    since: datetime  # the start of the day or of the month
    spent: int


class Purse:
    """Looked into after each tick."""

    def __init__(self, market: SharedMarket) -> None:
        self._market = market
        self._marks: dict[str, _Mark] = {}
        self._looked_at: datetime | None = None
        self._longest: dict[str, timedelta] = {}  # between two looks since a limit was last kept

    def passed(
        self,
        machines: Sequence[Rented],
        policy: Policy,
        now: datetime,
        *,
        local_now: datetime,
        unlisted: timedelta,
        knowable: bool,
    ) -> tuple[Overspent, ...]:
        """The hard limits that are passed. Not `knowable`: nobody could keep them since the last look.

        One that was lifted and is set again is another one: what was spent meanwhile was spent without it.
        Until a limit is seen to be passed there is one tick, then everything drains; a machine that is not listed
        yet costs in secret for `unlisted`, and at its end its minimum is due.
        """
        step = now - (self._looked_at or now)
        self._looked_at = now
        found = []
        limits = _limits(policy, local_now)
        self._marks = {name: self._marks[name] for name, _, _ in limits if name in self._marks}
        for name, limit, since in limits:
            start = since + (now - local_now)
            spent = sum(self._market.spent(one.token, start, now) for one in machines)
            mark = self._marks.get(name)
            if not knowable or spent <= limit or mark is None or (mark.limit, mark.since) != (limit, since):
                self._marks[name] = _Mark(at=now, limit=limit, since=since, spent=spent)
                self._longest[name] = timedelta(0)
                continue
            self._longest[name] = max(self._longest[name], step)
            time = self._longest[name] + timedelta(seconds=policy.patience.drain_seconds)
            ran = [one for one in machines if one.ended_at is None or one.ended_at > mark.at]
            found.append(
                Overspent(
                    limit=f"{name} budget of {limit}",
                    since=mark.at,
                    micros=spent - max(limit, mark.spent),
                    allowed_micros=sum(self._may(one, mark.at, now, time, unlisted) for one in ran),
                )
            )
        return tuple(found)

    def _may(self, machine: Rented, since: datetime, now: datetime, time: timedelta, unlisted: timedelta) -> int:
        """What one machine may cost beyond a limit that was kept until `since`."""
        secret = unlisted if machine.launched_at + unlisted > since else timedelta(0)
        terms = self._market.terms
        missing = timedelta(seconds=terms.minimum_seconds) - ((machine.ended_at or now) - machine.launched_at)
        rate = self._market.dearest(machine, since, now) + terms.disk_per_hour_micros
        return 1 + rate * (time + secret + max(timedelta(0), missing)) // HOUR


def _limits(policy: Policy, local_now: datetime) -> list[tuple[str, int, datetime]]:
    """(name, micro-units, since when they count by the daemon's clock) of the limits at which everything stops."""
    limit = policy.limit
    if limit is None or not any(step is Brake.STOP for _, step in limit.at):
        return []
    day = local_now.astimezone(policy.schedule.zone).replace(hour=0, minute=0, second=0, microsecond=0)
    periods = ("daily", limit.daily_micros, day), ("monthly", limit.monthly_micros, day.replace(day=1))
    return [(name, micros, since) for name, micros, since in periods if micros is not None]
