"""How pages are put into HTML: the templates, and the filters by which money, moments and durations are written."""

import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from urllib.parse import parse_qsl, urlencode
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from orchestrator.dashboard.reasons import reason
from orchestrator.dashboard.refusals import refusal
from orchestrator.dashboard.words import PageWords, spoken
from orchestrator.reports import figures
from orchestrator.status import LEAVING_RECOMMENDED, TAKEN_BACK

HERE = Path(__file__).parent
STATIC = HERE / "static"


def environment() -> Environment:
    """Everything is escaped, and a name that a template does not get is an error."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {"money": figures.money, "count": figures.count, "hours": figures.hours, "at": at, "lasts": lasts}
    made.globals |= {
        "asset": asset,
        "notices": notices,
        "spoken": spoken,
        "reason": reason,
        "refusal": refusal,
        "in_language": in_language,
        "utc": ZoneInfo("UTC"),
    }
    return made


def at(moment: datetime | str | None, zone: ZoneInfo, pattern: str = "%Y-%m-%d %H:%M") -> str:
    """A moment in a zone; one of the JSON contracts is taken too."""
    if moment is None:
        return ""
    known = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return known.replace(tzinfo=known.tzinfo or UTC).astimezone(zone).strftime(pattern)


def notices(
    reclaim_at: datetime | str | None, rebalance_at: datetime | str | None, zone: ZoneInfo, say: PageWords
) -> list[tuple[str, str]]:
    """What its provider says of a machine, each with the kind of its chip."""
    found = []
    if reclaim_at is not None:
        found.append((say(TAKEN_BACK, at=at(reclaim_at, zone, "%H:%M:%S")), "bad"))
    if rebalance_at is not None:
        found.append((say(LEAVING_RECOMMENDED, at=at(rebalance_at, zone)), "warn"))
    return found


def lasts(seconds: float | None) -> str:
    """A duration: `3d 04h`, `2h 05m`, `4m 30s`, `12s`; unknown is empty."""
    if seconds is None:
        return ""
    minutes, left = divmod(round(abs(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02d}h"
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {left:02d}s" if minutes else f"{left}s"


def in_language(query: str, language: str) -> str:
    """The query of this page in another language."""
    kept = [(name, value) for name, value in parse_qsl(query) if name not in ("lang", "part")]
    return urlencode([*kept, ("lang", language)])


@cache
def asset(name: str) -> str:
    """The address of a file of STATIC, with its digest: it may be kept for ever, and a new one is another address."""
    return f"/static/{name}?{hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]}"
