"""What was recorded instead of made up: the load of a month from a CSV file, and spot's outages from traces."""

import csv
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from orchestrator.errors import Refused
from orchestrator.providers.simulated import Outage
from orchestrator.simulation import traces

MINUTE = timedelta(minutes=1)
YEARS = range(1970, 2200)
#: a moment of one month here may be one of its neighbour's elsewhere
ANY_ZONE = (timedelta(0), timedelta(days=1), timedelta(days=-1))


def load(file: Path, month: str) -> Callable[[datetime], int]:
    """Images asked for in the minute that starts at a moment: a CSV file with the columns `at` (an ISO time with its
    zone) and `images`. A minute that is not in it had none.

    Raises Refused, naming the line; and for one that tells nothing of the month ("YYYY-MM", in any zone).
    """
    minutes: dict[datetime, int] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            rows = csv.DictReader(text)
            if not {"at", "images"} <= set(rows.fieldnames or ()):
                raise Refused(f"{file}: line 1: want the columns at,images")
            for row in rows:
                at, images = _minute(row, f"{file}: line {rows.line_num}")
                minutes[at] = minutes.get(at, 0) + images
    except UnicodeDecodeError as error:
        raise Refused(f"{file}: not UTF-8 text (at byte {error.start + 1}); save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise Refused(f"{file}: {error}; is it CSV?") from None
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}; name a CSV file with the columns at,images") from None
    if not any(f"{at + shift:%Y-%m}" == month for at in minutes for shift in ANY_ZONE):
        told = f"it tells of {min(minutes):%Y-%m-%d} to {max(minutes):%Y-%m-%d}" if minutes else "nothing is in it"
        raise Refused(f"{file}: {told}, and the month is {month}")
    return lambda minute: minutes.get(minute, 0)


def outages(files: Sequence[Path], zones: Sequence[str], start: datetime, end: datetime) -> tuple[Outage, ...]:
    """When spot is not to be had: the n-th trace is the n-th zone's from `start` on, and begins anew when it is over.

    A tick with 0 instances is an outage; how many there are otherwise is not limited. Raises Refused for a file that is
    no trace, and where there are not as many as zones.
    """
    if len(files) != len(zones):
        named = ", ".join(zones) or "none"
        raise Refused(
            f"--trace: {len(files)} files, but the market has {len(zones)} zones ({named}): give one for each"
        )
    read = traces.load(files)
    step = timedelta(seconds=read.tick_seconds)
    found: list[Outage] = []
    for zone, up in zip(zones, read.up.tolist(), strict=True):
        at, since, place = start, None, 0
        while at < end:
            if not up[place] and since is None:
                since = at
            if up[place] and since is not None:
                found.append(Outage(zone=zone, start=since, end=at))
                since = None
            at, place = at + step, (place + 1) % len(up)
        if since is not None:
            found.append(Outage(zone=zone, start=since, end=end))
    return tuple(sorted(found, key=lambda outage: outage.start))


def _minute(row: dict[str, str], where: str) -> tuple[datetime, int]:
    try:
        at, images = datetime.fromisoformat(row["at"]), int(row["images"])
    except (TypeError, ValueError):
        raise Refused(f"{where}: want a time such as 2026-10-01T08:00:00+08:00 and a whole number of images") from None
    if at.tzinfo is None or images < 0:
        raise Refused(f"{where}: want the time's zone, and no fewer than 0 images")
    if at.year not in YEARS:
        raise Refused(f"{where}: want a time from {YEARS[0]} to {YEARS[-1]}")
    return at.replace(second=0, microsecond=0), images
