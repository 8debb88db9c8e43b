"""Look once a minute whether somebody must be told something, in a thread of its own: no tick waits for a mail."""

import logging
import threading
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from orchestrator import alerts, spec
from orchestrator.alerts import Weight
from orchestrator.errors import Refused
from orchestrator.ledger import beliefs, deployments, leases, tallies
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.store import Ledger, Stale
from orchestrator.reports import budgets, days, terminal
from orchestrator.reports.frame import Frame, so_far
from orchestrator.reports.month import of_ledger
from orchestrator.reports.terms import terms_of
from orchestrator.reports.words import Words
from orchestrator.spec import Spec
from orchestrator.status import status

log = logging.getLogger("halve.alerts")

EVERY = timedelta(minutes=1)
#: after a message that nobody took
RETRY = timedelta(minutes=10)
#: an error of a tick longer ago than this is over
LATELY = timedelta(minutes=10)
#: for a message under way to be taken while the daemon leaves
STOP_SECONDS = 5.0
#: under which the ledger remembers what was said
MEMORY = "alerts"


class Alarms:
    """Tells the owners of one home's deployments. Used by the daemon that holds the lease: nobody is told twice."""

    def __init__(self, home: Path, ledger: Ledger) -> None:
        self._home = home
        self._ledger = ledger
        self._thread: threading.Thread | None = None
        self._next_at: datetime | None = None
        self._trouble: str | None = None

    def look(self, now: datetime) -> str | None:
        """Look when it is time to, without waiting for it; return, once, what could not be said last time."""
        trouble, self._trouble = self._trouble, None
        busy = self._thread is not None and self._thread.is_alive()
        early = self._next_at is not None and now < self._next_at <= now + RETRY  # or the clock was set back
        if not busy and not early:
            self._next_at = now + EVERY
            self._thread = threading.Thread(target=self._tell, args=(now,), name="alerts", daemon=True)
            self._thread.start()
        return trouble

    def stop(self) -> None:
        """Wait a little for a message under way."""
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def _tell(self, now: datetime) -> None:
        try:
            failed = tell(self._home, self._ledger, now)
        except Stale:
            return
        except Exception as error:
            log.exception("alerts: nothing could be said; it is tried again")
            failed = [f"{type(error).__name__}"]
        if failed:
            self._next_at = now + RETRY
            self._trouble = f"alerts: not delivered: {', '.join(failed)}"


def tell(home: Path, ledger: Ledger, now: datetime) -> list[str]:
    """Say what is due, to the owners of every deployment that has `alerts`. Returns what could not be said."""
    with ledger.read() as tx:
        rows = [row for row in deployments.known(tx) if row.wanted == "up"]
    wanted = [(row, read) for row in rows if (read := _spec(row)) is not None and read.alerts]
    if not wanted:
        return []
    with ledger.read() as tx:
        held = leases.held(tx)
    found = {one["name"]: one for one in status(home, ledger, now)["deployments"]}
    errors = _errors(held, now)
    failed = []
    for row, read in wanted:
        try:
            failed += _tell_one(ledger, row, read, found[row.name], errors, now)
        except Refused as refusal:
            failed.append(f"{row.name}: {refusal}")
    return failed


def _tell_one(
    ledger: Ledger, row: Deployment, wanted: Spec, shown: dict[str, object], errors: str, now: datetime
) -> list[str]:
    urls, say = wanted.alerts, Words(wanted.lang)
    terms = terms_of(row, now.year, now.month)
    zone = terms.zone or ZoneInfo("UTC")
    local = now.astimezone(zone)
    month = f"{local:%Y-%m}"
    with ledger.read() as tx:
        kept = dict(beliefs.known(tx, row.name).get(MEMORY, {}))
    lines = _budget_lines(ledger, Frame(month=month, zone=zone, currency=terms.currency, terms=[terms]), now)
    before, reported = alerts.told(kept), kept.get("reported")
    news, after = alerts.due(alerts.findings(shown, lines, errors), before, now)
    failed: list[str] = []
    if news:
        failed = _failures(urls, *alerts.message(row.name, news, wanted.lang))
        # what no way took is said again; what one of several took is not
        after = before if len(failed) == len(urls) else after
    if last := alerts.month_due(local, reported):
        page = terminal.text(of_ledger(ledger, last, now, zone), wanted.lang)
        missed = _failures(urls, say("halve: month report {month}", month=last), page, Weight.INFO)
        reported = reported if len(missed) == len(urls) else last
        failed += missed
    memory = {**after.to_json(), "reported": reported or alerts.month_before(local)}
    if memory != kept:
        with ledger.write() as tx:
            beliefs.keep(tx, row.name, {MEMORY: memory}, now)
    return [f"{row.name}: {where}" for where in failed]


def _errors(held: leases.Lease | None, now: datetime) -> str:
    """What went wrong in a tick lately, but for what this very module said."""
    said, _, words = (held.last_error or "" if held else "").partition(" UTC ")
    try:
        at = datetime.fromisoformat(f"{said}+00:00")
    except ValueError:
        return ""
    if not timedelta(0) <= now - at <= LATELY:
        return ""
    return "; ".join(one for one in words.split("; ") if not one.startswith("alerts: "))


def _failures(urls: tuple[str, ...], title: str, text: str, weight: Weight) -> list[str]:
    return [one.where for one in alerts.send(urls, title, text, weight) if not one.taken]


def _budget_lines(ledger: Ledger, asked: Frame, now: datetime) -> tuple[budgets.BudgetLine, ...]:
    (terms,) = asked.terms
    if terms.budget is None:
        return ()
    period = so_far(asked.whole, now)
    midnight = now.astimezone(asked.zone).replace(hour=0, minute=0, second=0, microsecond=0)
    with ledger.read() as tx:
        edges = period.opens_at, max(period.opens_at, midnight), period.closes_at
        charged = tallies.tallies(tx, edges, asked.rates, terms.name)
    month, today = (days.spent(charged, since, period.closes_at) for since in edges[:2])
    months = budgets.budget_lines([terms], {terms.name: month}, asked.whole, now, asked.rates)
    return months + budgets.day_lines([terms], {terms.name: today}, midnight, asked.rates)


def _spec(row: Deployment) -> Spec | None:
    try:
        return spec.parse(row.spec, row.source)
    except Refused:
        return None
