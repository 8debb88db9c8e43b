"""Opening hours for whoever works against time: how long it is open until then, and for how many machines."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from policies import windows
from policies.windows import Bounds, Schedule

#: what needs more openings than this is never done
MOST_OPENINGS = 2000


def most_machines(bounds: Bounds, *, pursued: bool = True) -> int:
    """How many may read for a deadline; where it is not pursued, or some are up anyway, a batch asks for no more."""
    return max(1, bounds.max if pursued and bounds.min == 0 else bounds.min)


def stretches(schedule: Schedule, now: datetime) -> Iterator[tuple[Bounds, datetime | None]]:
    """What is open from now on, and until when these bounds hold; None: no change within the horizon."""
    at: datetime | None = now
    for _ in range(MOST_OPENINGS):
        if at is None:
            return
        bounds, at = windows.bounds(schedule, at), windows.next_edge(schedule, at)
        if bounds.open:
            yield bounds, at


def fewest_machines(schedule: Schedule, now: datetime, until: datetime) -> int:
    """How many may read at every open moment until then; at least one."""
    fewest: list[int] = []
    for bounds, edge in stretches(schedule, now):
        fewest.append(most_machines(bounds))
        if edge is None or edge >= until:
            break
    return min(fewest, default=1)


def open_seconds(schedule: Schedule, now: datetime, until: datetime, start_seconds: float) -> float:
    """How long it is open from now until then, without what is lost on a start at each opening."""
    total, at = 0.0, now
    while at < until:
        bounds = windows.bounds(schedule, at)
        edge = min(until, (bounds.closes_at if bounds.open else bounds.opens_at) or until)
        if bounds.open:
            total += (edge - at).total_seconds()
        elif edge < until:
            total -= start_seconds
        at = edge
    return total


def open_for(schedule: Schedule, now: datetime, seconds: float, start_seconds: float) -> datetime | None:
    """When it has been open for so long, with a start more at each opening; None: not within the horizon."""
    at, left = now, seconds
    for _ in range(MOST_OPENINGS):
        bounds = windows.bounds(schedule, at)
        if bounds.open:
            edge = bounds.closes_at
            if edge is None or (edge - at).total_seconds() >= left:
                return at + timedelta(seconds=left)
            left -= (edge - at).total_seconds()
        else:
            edge, left = bounds.opens_at, left + start_seconds
        if edge is None:
            return None
        at = edge
    return None
