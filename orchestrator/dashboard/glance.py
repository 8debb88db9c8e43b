"""The first look: what runs, what it costs, what is saved, and what is wrong."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from orchestrator.dashboard.looks import at, notices
from orchestrator.dashboard.words import PageWords
from orchestrator.reports import table, terminal
from orchestrator.reports.figures import money
from orchestrator.reports.month import MonthReport

#: machines that are on their way to ready
STARTING = ("requested", "booting")
#: instead of a number where there is nothing to count
NONE = "–"
Standing = Mapping[str, Any]
"""What `halve status --json` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number that says how things are. `kind`: good, bad, or neither."""

    name: str
    value: str
    under: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Something that somebody should look at. Grave: a promise is not kept, or nobody keeps it."""

    words: str
    grave: bool = False


def figures(standing: Standing, report: MonthReport | None, wrong: Sequence[Trouble], say: PageWords) -> list[Figure]:
    """Four of them. `report` is this month's, None while it is added up."""
    shown = standing["deployments"]
    ready = sum(machine["status"] == "ready" for one in shown for machine in one["instances"])
    opened = sum(bool(one["open"]) for one in shown)
    running = Figure(name=say("ready"), value=NONE, under=say("no deployment is up"))
    if shown:
        running = Figure(
            name=say("ready"),
            value=say("{ready} of {wanted}", ready=ready, wanted=sum(one["target"] or 0 for one in shown)),
            under=say("{open} of {count} deployments open", open=opened, count=len(shown)),
        )
    wanting = Figure(
        name=say("wrong"),
        value=str(len(wrong)) if wrong else say("nothing"),
        kind="bad" if any(one.grave for one in wrong) else "" if wrong else "good",
    )
    return [running, *_money(report, say), wanting]


def troubles(standing: Standing, zones: Mapping[str, ZoneInfo], say: PageWords, *, simulated: bool) -> list[Trouble]:
    """The gravest first. Over a simulated ledger no daemon is missed."""
    found: list[Trouble] = []
    daemon = standing["daemon"]
    if daemon is None and standing["deployments"] and not simulated:
        words = say("no daemon is running: nobody decides, and what is shown is what the ledger knows")
        found.append(Trouble(words=words, grave=True))
    if daemon is not None and daemon["tick_errors"]:
        count, error = daemon["tick_errors"], daemon["last_error"]
        found.append(
            Trouble(words=say("{count} ticks failed, the last: {error}", count=count, error=error), grave=True)
        )
    for one in standing["deployments"]:
        zone = zones.get(one["name"], ZoneInfo("UTC"))
        found += [Trouble(words=f"{one['name']}: {words}", grave=grave) for words, grave in _of(one, zone, say)]
    return sorted(found, key=lambda trouble: not trouble.grave)


def _money(report: MonthReport | None, say: PageWords) -> tuple[Figure, Figure]:
    if report is not None and not report.rows:
        return Figure(name=say("this month"), value=NONE, under=say("nothing ran yet")), Figure(
            name=say("saved"), value=NONE
        )
    if report is None or report.total_micros is None:
        known = "…" if report is None else say("unknown")
        return Figure(name=say("this month"), value=known), Figure(name=say("saved"), value=known)
    cost, under = report.total_micros, ""
    if report.forecast is not None:
        under = say("{amount} at the month's end", amount=table.signed(report, report.forecast.micros, say))
    spent = Figure(name=say("this month"), value=table.signed(report, cost, say), under=under)
    if (saved := report.savings) is None:
        return spent, Figure(name=say("saved"), value=say("unknown"), under=say("no baseline to measure against"))
    amount = saved.baseline_micros - saved.actual_micros
    share = terminal.share(abs(amount), saved.baseline_micros) or "0%"
    return spent, Figure(
        name=say("saved" if amount >= 0 else "spent more"),
        value=table.signed(report, abs(amount), say),
        under=say("{share} of the baseline", share=share),
        kind="good" if amount > 0 else "bad" if amount < 0 else "",
    )


def _of(one: Mapping[str, Any], zone: ZoneInfo, say: PageWords) -> Iterator[tuple[str, bool]]:
    """A deployment's troubles, and whether each is grave."""
    if one["open"] is None:
        yield say("its spec cannot be read"), True
    machines, currency = one["instances"], one["spend"]["currency"] or ""
    coming = sum(machine["status"] in ("ready", *STARTING) for machine in machines)
    if one["open"] and one["target"] and coming < one["target"]:
        yield (
            say("{missing} of {count} machines are missing", missing=one["target"] - coming, count=one["target"]),
            True,
        )
    for machine in machines:
        if machine["reclaim_at"]:
            ((words, _),) = notices(machine["reclaim_at"], None, zone, say)
            yield f"{machine['id']} {words}", False
        elif machine["status"] == "lost":
            yield say("{machine} is lost: nobody lists it, and it may still cost money", machine=machine["id"]), True
    for budget in one["budgets"]:
        if budget["reached"]:
            spent, limit = money(budget["spent_micros"]), money(budget["limit_micros"])
            amounts = {"spent": spent, "limit": limit, "currency": currency}
            words = say("budget of the {period}: {spent} of {limit} {currency}", period=budget["period"], **amounts)
            yield f"{words} · {say(budget['reached'])}", budget["reached"] == "stop"
    if one["spend"].get("unknown_hours"):
        yield say("{hours} hours ran at a price that nobody knows", hours=f"{one['spend']['unknown_hours']:.1f}"), False
    if resumes := one["launches"]["resumes_at"]:
        yield say("as many launches as an hour may have; the next one at {at}", at=at(resumes, zone, "%H:%M")), False
    for end in one["ends_unseen"]:
        yield say("nobody saw {machine} end", machine=end["instance"]), False
