"""What every page is made from: the ledger, the time, who may look, and the answers that are kept for a while."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from orchestrator import prices, spec, status
from orchestrator.clock import Clock
from orchestrator.dashboard.access import Access
from orchestrator.dashboard.kept import Kept
from orchestrator.dashboard.timeline import Timeline, timeline
from orchestrator.errors import Refused
from orchestrator.ledger import deployments, reporting
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.store import Ledger
from orchestrator.reports.month import MonthReport, of_ledger
from orchestrator.spec import Spec

#: how old an answer may be before the next one is worked out
REPORT_FRESH = timedelta(seconds=60)
#: of the month where it is one figure among others, on a page that stays open all day
GLANCE_FRESH = timedelta(minutes=10)
STATUS_FRESH = timedelta(seconds=3)
TIMELINE_FRESH = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the dashboard was started."""

    home: Path
    listen: str = "127.0.0.1:7870"
    actions: bool = False  # whether it may override, drain and pause

    @property
    def cookie(self) -> str:
        """A cookie goes to every port of a host: two dashboards must not log each other out."""
        return f"halve_{self.listen.rpartition(':')[2]}"


class Site:
    """One ledger's pages. Nothing but answers that are kept for speed is remembered here."""

    def __init__(self, settings: Settings, ledger: Ledger, access: Access, clock: Clock) -> None:
        prices.seed(ledger)  # a baseline without a price of its own takes the published one, as in `halve report`
        self.settings = settings
        self.ledger = ledger
        self.access = access
        self.clock = clock
        self._adding = ThreadPoolExecutor(1, "reports")
        self._looking = ThreadPoolExecutor(1, "looks")
        self.reports: Kept[MonthReport] = Kept(self._report, REPORT_FRESH, clock, self._adding)
        self.standing: Kept[dict[str, Any]] = Kept(self._standing, STATUS_FRESH, clock, self._looking)
        self.timelines: Kept[Timeline] = Kept(self._timeline, TIMELINE_FRESH, clock, self._looking)

    def now(self) -> datetime:
        """A simulated ledger's own time; else the clock's."""
        return reporting.simulated_until(self.ledger) or self.clock.now()

    def deployments(self) -> Sequence[Deployment]:
        with self.ledger.read() as tx:
            return deployments.known(tx)

    def chosen(self, name: str | None) -> Deployment | None:
        """The deployment of that name, else the first that is up, else the first; None: there is none yet.

        Raises Refused for a name that nobody bears.
        """
        rows = self.deployments()
        if name:
            for row in rows:
                if row.name == name:
                    return row
            raise Refused(f"no deployment is called {name}")
        return next((row for row in rows if row.wanted == "up"), rows[0] if rows else None)

    def warm(self) -> None:
        """Begin to work out what is looked at first."""
        self.reports.get(None, patience_seconds=0)
        self.standing.get(patience_seconds=0)

    def this_month(self) -> MonthReport | None:
        """The report at hand, some minutes old; None while there is none. Waits for nothing."""
        try:
            known = self.reports.get(None, patience_seconds=0, fresh=GLANCE_FRESH)
        except Refused:  # the page of costs says why
            return None
        return None if known is None else known.value

    def changed(self) -> None:
        """Something was done by hand: the next page shows it."""
        self.standing.forget()

    def close(self) -> None:
        self._adding.shutdown(wait=False, cancel_futures=True)
        self._looking.shutdown(wait=False, cancel_futures=True)
        self.ledger.close()

    def _report(self, month: str | None) -> MonthReport:
        return of_ledger(self.ledger, month, self.now())

    def _standing(self) -> dict[str, Any]:
        return status.status(self.settings.home, self.ledger, self.now())

    def _timeline(self, name: str, start: datetime, seconds: int, count: int) -> Timeline:
        row = self.chosen(name)
        assert row is not None  # a name was given
        return timeline(self.ledger, row, start, seconds, count)


def spec_of(row: Deployment) -> Spec:
    """Raises Refused for one that this halve cannot read any more."""
    return _parsed(row.spec, row.source)


@lru_cache(maxsize=256)
def _parsed(text: str, source: str) -> Spec:
    """The same text is the same spec: pages ask for it again and again."""
    return spec.parse(text, source)
