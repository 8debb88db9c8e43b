"""What a deployment's owner is told without asking: what is worth it, when it is said again, and how.

`findings` looks at what `halve status` shows, `due` decides what of it is said now, `send` says it through Apprise:
mail, Slack, Feishu, DingTalk, WeCom, webhooks and more, by the URLs in the spec's `alerts`.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from orchestrator.errors import Refused
from orchestrator.reports.budgets import BudgetLine
from orchestrator.reports.figures import money, percent
from orchestrator.reports.words import Said, Words
from policies.budget import Brake

#: what lasts is said again after so long
REPEAT = timedelta(hours=6)
#: of one deployment, messages in any hour; what is worth saying beyond that waits and comes in one message
MOST_AN_HOUR = 4
#: what was said is forgotten after so long: longer than a month, so that a budget's step is said once in it
FORGET = timedelta(days=40)
#: how the keys begin of what is said once in its month or day
UNKNOWN_PRICE = "unknown price"
MONTHLY = ("budget ", "forecast ")
HOUR = timedelta(hours=1)


class Weight(StrEnum):
    """How much an alert matters; messages are headed by the heaviest."""

    INFO = "info"
    WARNING = "warning"
    FAILURE = "failure"


BRAKES = {
    Brake.WARN: Weight.WARNING,
    Brake.SPOT_ONLY: Weight.WARNING,
    Brake.MINIMUM: Weight.WARNING,
    Brake.STOP: Weight.FAILURE,
}
WEIGHTS = tuple(Weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One thing to be told. The same `key` is the same thing, however its words change meanwhile."""

    key: str
    weight: Weight
    words: Said
    once: bool = False  # not said again while it lasts


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What was said to a deployment's owner: when, by key; and when messages went out."""

    said: Mapping[str, datetime]
    messages: tuple[datetime, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the ledger keeps them."""
        return {
            "said": {key: at.isoformat() for key, at in self.said.items()},
            "messages": [at.isoformat() for at in self.messages],
        }


def told(values: Mapping[str, Any] | None) -> Told:
    """What `to_json` gave; nothing was said where there is none, or one of another shape."""
    try:
        said = {str(key): datetime.fromisoformat(at) for key, at in (values or {})["said"].items()}
        return Told(said=said, messages=tuple(map(datetime.fromisoformat, (values or {})["messages"])))
    except (KeyError, TypeError, ValueError, AttributeError):
        return Told(said={})


def findings(shown: Mapping[str, Any], budgets: Sequence[BudgetLine], errors: str) -> list[Alert]:
    """What is worth telling of one deployment: `shown` is its part of `halve status --json`, `errors` the daemon's."""
    found = []
    for line in budgets:
        found += _of_budget(line)
    if errors:
        words = Said("the daemon's tick failed: {errors}", errors=errors)
        found.append(Alert(key="errors", weight=Weight.FAILURE, words=words))
    ready = sum(one["status"] == "ready" for one in shown["instances"])
    if shown["open"] and shown["target"] and not ready and shown["left_alone"]:
        words = Said(
            "nothing serves, {target} wanted: {count} offers refuse ({why})",
            target=shown["target"],
            count=len(shown["left_alone"]),
            why=shown["left_alone"][0]["why"],
        )
        found.append(Alert(key="nothing serves", weight=Weight.FAILURE, words=words))
    if lost := [one["id"] for one in shown["instances"] if one["status"] == "lost"]:
        words = Said(
            "no longer listed by their provider, and perhaps still paid: {names}", names=", ".join(sorted(lost))
        )
        found.append(Alert(key=f"lost {' '.join(sorted(lost))}", weight=Weight.WARNING, words=words))
    if hours := shown["spend"].get("unknown_hours"):
        template = "{hours} machine hours of this month have no known price; a budget cannot count them"
        words = Said(template, hours=f"{hours:.1f}")
        found.append(Alert(key=UNKNOWN_PRICE, weight=Weight.INFO, words=words, once=True))
    return found


def _of_budget(line: BudgetLine) -> list[Alert]:
    spent = {
        "share": percent(line.spent_micros, line.limit_micros),
        "limit": f"{money(line.limit_micros)} {line.currency}",
        "period": line.period,
    }
    if line.reached is not None:
        share = max(share for share, _ in line.at if line.spent_micros >= share * line.limit_micros)
        words = Said("{share} of the {limit} of {period} are spent: {step}", **spent, step=line.reached.value)
        return [Alert(key=f"budget {line.period} {share}", weight=BRAKES[line.reached], words=words, once=True)]
    if line.ahead is not None and line.forecast_micros is not None:
        end = percent(line.forecast_micros, line.limit_micros)
        template = (
            "{share} of the {limit} of {period} are spent; at this pace it will be {end} at the month's end: {step}"
        )
        words = Said(template, **spent, end=end, step=line.ahead.value)
        return [Alert(key=f"forecast {line.period} {line.ahead}", weight=Weight.WARNING, words=words, once=True)]
    return []


def due(found: Sequence[Alert], before: Told, now: datetime) -> tuple[tuple[Alert, ...], Told]:
    """What of it is said now, in one message, and what will have been said then. Nothing when it is not due.

    A thing is said when it is new, and again each REPEAT while it lasts, unless once is enough; never more than
    MOST_AN_HOUR messages an hour: what is new meanwhile waits for the next one.
    """
    recent = tuple(at for at in before.messages if timedelta(0) <= now - at < HOUR)
    said = {key: at for key, at in before.said.items() if now - at < FORGET}
    news = tuple(one for one in found if one.key not in said or (not one.once and now - said[one.key] >= REPEAT))
    lasting = {one.key for one in found}
    # what is over is new when it comes back; what is said once a month stays said
    kept = {key: at for key, at in said.items() if key in lasting or key.startswith(MONTHLY)}
    if not news or len(recent) >= MOST_AN_HOUR:
        return (), Told(said=kept, messages=recent)
    return news, Told(said={**kept, **{one.key: now for one in news}}, messages=(*recent, now))


def message(deployment: str, news: Sequence[Alert], language: str = "en") -> tuple[str, str, Weight]:
    """Title, text and weight of one message that says them all, the heaviest first."""
    say = Words(language)
    ordered = sorted(news, key=lambda one: -WEIGHTS.index(one.weight))
    told = [say(one.words) for one in ordered]
    what = told[0] if len(told) == 1 else say("{count} alerts", count=len(told))
    return f"halve: {deployment}: {what}", "\n".join(f"- {words}" for words in told), ordered[0].weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One way, its secrets masked, and whether the message was taken there."""

    where: str
    taken: bool


def send(urls: Sequence[str], title: str, text: str, weight: Weight = Weight.INFO) -> tuple[Delivery, ...]:
    """Say it by every way. One that fails does not keep the others from it. May block for seconds.

    Raises Refused without Apprise (the extra `alerts`), or for a URL that it does not understand.
    """
    return tuple(
        Delivery(where=where, taken=bool(way.notify(text, title=title, notify_type=str(weight))))
        for where, way in _ways(urls)
    )


def check(urls: Sequence[str]) -> None:
    """Raises Refused as `send` would, and says nothing to anybody."""
    _ways(urls)


def masked(url: str) -> str:
    """A URL without what must not be read over a shoulder: tokens stand anywhere in it, also as the host."""
    return f"{urlsplit(url).scheme}://****"


def _ways(urls: Sequence[str]) -> list[tuple[str, Any]]:
    try:
        import apprise
    except ImportError:
        raise Refused("alerts need Apprise: pip install 'halve[alerts]'") from None
    # what they log names URLs whole, or their paths
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    ways = []
    for url in urls:
        way = apprise.Apprise()
        if not way.add(url):
            raise Refused(f"alerts: {masked(url)} is no address that Apprise understands; see its list of services")
        ways.append((masked(url), way))
    return ways


def month_due(zone_now: datetime, reported: str | None) -> str | None:
    """The month ("YYYY-MM") to report now, on or after the 1st of the next one; None when it was. `zone_now` is local.

    On the first look ever nothing is reported that was over before.
    """
    last = month_before(zone_now)
    return last if reported is not None and reported < last else None


def month_before(zone_now: datetime) -> str:
    """The month before the local one, as YYYY-MM."""
    return (zone_now.replace(day=1) - timedelta(days=1)).strftime("%Y-%m")
