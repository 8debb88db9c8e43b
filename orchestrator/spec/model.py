"""The whole spec, and what it means: its hashes, its opening hours, its exchange rates."""

import hashlib
import json
from collections.abc import Iterator
from datetime import date, datetime
from difflib import get_close_matches
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, Field

from orchestrator import calendars
from orchestrator.calendars import Calendar
from orchestrator.spec.document import Path
from orchestrator.spec.sections import (
    DEFAULT_CURRENCY,
    Aws,
    Baseline,
    Budget,
    Currency,
    Dashboard,
    Door,
    Engine,
    Local,
    OpeningHours,
    Rate,
    Replicas,
    Section,
    Selection,
    Simulated,
    Slo,
    Spot,
    Ssh,
    Text,
)
from orchestrator.spec.units import Money
from policies.windows import Override, Schedule, Window

PROVIDERS = ("local", "ssh", "aws", "simulated")
#: how long before an opening to start when `prewarm: auto` has no measured start to go by
PREWARM_UNMEASURED_SECONDS = 120.0
#: what is due is seen up to a few ticks late, at the launch and when it is ready
PREWARM_MARGIN_SECONDS = 10.0
_UTC = ZoneInfo("UTC")
_ALL_WEEK = (Window(days=frozenset(range(7)), start_minute=0, end_minute=24 * 60),)


def _providers(value: object) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names:
        raise ValueError(f"want one of {', '.join(PROVIDERS)}, or a list of them in order of preference")
    for name in names:
        if name not in PROVIDERS:
            close = [f"; did you mean {meant}?" for meant in get_close_matches(str(name), PROVIDERS, n=1)]
            raise ValueError(f"want one of {', '.join(PROVIDERS)}, or a list of them{''.join(close)}")
    if len(set(names)) < len(names):
        raise ValueError("a provider is named twice")
    return tuple(names)


class Spec(Section):
    """A deployment as its owner wants it."""

    name: str = Field(pattern="^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")
    model: Text
    provider: Annotated[tuple[str, ...], BeforeValidator(_providers)]  # in order of preference
    engine: Engine = Engine()
    currency: Currency = DEFAULT_CURRENCY
    rates: dict[Currency, Rate] = Field(default_factory=dict)
    local: Local = Local()
    ssh: Ssh | None = None
    aws: Aws | None = None
    simulated: Simulated = Simulated()
    schedule: OpeningHours | None = None
    replicas: Replicas = Replicas()
    slo: Slo | None = None
    selection: Selection = Selection()
    spot: Spot | None = None
    budget: Budget | None = None
    baseline: Baseline | None = None
    door: Door = Door()
    dashboard: Dashboard | None = None
    lang: Literal["en", "zh"] = "en"  # of what its owner is sent: alerts and the month report
    alerts: tuple[Annotated[str, Field(pattern="^[a-zA-Z][a-zA-Z0-9+.-]*://.+")], ...] = Field(default=(), repr=False)

    @property
    def timezone(self) -> ZoneInfo:
        """The zone that its hours and days are counted in; UTC without a schedule."""
        return self.schedule.timezone if self.schedule else _UTC

    def digest(self) -> str:
        """A hash of what the spec means: comments, order, spelling (5m, 300s) and written-out defaults do not count."""
        return _hash(self.model_dump(mode="json", exclude_defaults=True))

    def replica_digest(self) -> str:
        """A hash of what a running replica depends on: another one makes it outdated."""
        return _hash(self.model_dump(mode="json", include={"model", "engine"}, exclude_defaults=True))

    def convert(self, amount: Money) -> Money | None:
        """`amount` in the spec's currency at its dated rate, half to even; None without a rate."""
        if amount.currency == self.currency:
            return amount
        rate = self.rates.get(amount.currency)
        return None if rate is None else Money(round(amount.micros * rate.rate), self.currency)

    def schedule_for(
        self, now: datetime, override: Override | None = None, start_seconds: float | None = None
    ) -> Schedule:
        """The opening hours around `now`. `start_seconds` is the measured p95 start that `prewarm: auto` means."""
        return self._schedule(now.year - 1, now.year + 2, override, start_seconds)

    def schedule_over(self, first: date, last: date) -> Schedule:
        """The opening hours of a range of local dates."""
        return self._schedule(first.year - 1, last.year + 1, None, None)

    def calendar_notes(self, first_year: int, last_year: int) -> tuple[str, ...]:
        """What the holiday calendar does not know about these years, inclusive: to be said aloud."""
        return self._calendar(first_year, last_year).notes

    def amounts(self) -> Iterator[tuple[Path, Money]]:
        """Every sum of money in the spec with its path."""
        yield from _amounts(self, ())

    def _calendar(self, first_year: int, last_year: int) -> Calendar:
        code = self.schedule.holidays if self.schedule else None
        return calendars.calendar(code, first_year, last_year) if code else Calendar()

    def _schedule(
        self, first_year: int, last_year: int, override: Override | None, start_seconds: float | None
    ) -> Schedule:
        hours, calendar = self.schedule, self._calendar(first_year, last_year)
        if hours is None:
            return Schedule(zone=self.timezone, override=override, min=self.replicas.min, max=self.replicas.max)
        prewarm = hours.prewarm
        if prewarm == "auto":
            prewarm_seconds = (
                PREWARM_UNMEASURED_SECONDS if start_seconds is None else start_seconds + PREWARM_MARGIN_SECONDS
            )
        else:
            prewarm_seconds = prewarm.total_seconds()
        return Schedule(
            zone=self.timezone,
            windows=_ALL_WEEK if hours.windows is None else tuple(line.window for line in hours.windows),
            holidays=calendar.holidays,
            make_up=calendar.make_up,
            closed=frozenset(hours.closed),
            extra=hours.open,
            prewarm_seconds=prewarm_seconds,
            override=override,
            min=self.replicas.min,
            max=self.replicas.max,
        )


def _amounts(value: object, path: Path) -> Iterator[tuple[Path, Money]]:
    if isinstance(value, Money):
        yield path, value
    elif isinstance(value, BaseModel):
        for name, part in value:
            yield from _amounts(part, (*path, name))
    elif isinstance(value, tuple):
        for index, part in enumerate(value):
            yield from _amounts(part, (*path, index))


def _hash(dumped: dict[str, Any]) -> str:
    canonical = json.dumps(dumped, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
