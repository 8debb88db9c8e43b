"""A stretch of a deployment's life in as many steps as can be drawn: open hours, replicas, losses, load."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from orchestrator import spec
from orchestrator.ledger import history
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.history import Load, Loss, Steps
from orchestrator.ledger.store import Ledger
from policies.snapshot import Purchase
from policies.windows import Span, spans

#: the lengths of a step, in seconds: the load is known by the minute
LENGTHS = (60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
#: at most so many steps are drawn
MOST = 720
#: at most so many losses are named
LOSSES = 500
LONGEST = timedelta(days=400)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """`replicas` at the end of each step, `loads` in it. `opened` is what the schedule of today's spec says."""

    steps: Steps
    opened: tuple[Span, ...]
    replicas: Mapping[Purchase, Sequence[int]]
    loads: Sequence[Load | None]
    losses: tuple[Loss, ...]

    def to_json(self) -> dict[str, Any]:
        """For the charts: moments as seconds since 1970, rates per second, null where nobody watched."""
        start, seconds = int(self.steps.start.timestamp()), self.steps.seconds

        def rates(of: str) -> list[float | None]:
            return [None if one is None else round(getattr(one, of) / seconds, 4) for one in self.loads]

        return {
            "at": [start + seconds * number for number in range(self.steps.count)],
            "seconds": seconds,
            "opened": [[int(one.opens_at.timestamp()), int(one.closes_at.timestamp())] for one in self.opened],
            "replicas": {str(terms): self.replicas[terms] for terms in Purchase if terms in self.replicas},
            "images": rates("images"),
            "refused": rates("refused"),
            "failed": rates("failed"),
            "losses": [[int(one.at.timestamp()), f"{one.gpu} {one.zone}".strip()] for one in self.losses],
        }


def cut(start: datetime, end: datetime) -> tuple[datetime, int, int]:
    """The start, the length (s) and the number of the steps that a stretch is drawn in: the same for a whole step, so
    that what was worked out for one moment serves the next.
    """
    span = min(max(end - start, timedelta(minutes=10)), LONGEST)
    seconds = next((one for one in LENGTHS if span.total_seconds() / one <= MOST), LENGTHS[-1])
    first = int(start.timestamp()) // seconds
    last = -(-int((start + span).timestamp()) // seconds)
    return datetime.fromtimestamp(first * seconds, start.tzinfo), seconds, last - first


def timeline(ledger: Ledger, row: Deployment, start: datetime, seconds: int, count: int) -> Timeline:
    """Raises Refused for a spec that this halve cannot read any more."""
    steps = Steps(start=start, seconds=seconds, count=count)
    with ledger.read() as tx:
        replicas = history.replicas(tx, row.name, steps)
        loads = history.loads(tx, row.name, steps)
        losses = history.losses(tx, row.name, steps.start, steps.end, LOSSES)
    return Timeline(steps=steps, opened=_opened(row, steps), replicas=replicas, loads=loads, losses=losses)


def _opened(row: Deployment, steps: Steps) -> tuple[Span, ...]:
    wanted = spec.parse(row.spec, row.source)
    first = steps.start.astimezone(wanted.timezone).date() - timedelta(days=1)  # a window may run past midnight
    last = steps.end.astimezone(wanted.timezone).date()
    found = spans(wanted.schedule_over(first, last), first, last)
    clipped = (Span(opens_at=max(one.opens_at, steps.start), closes_at=min(one.closes_at, steps.end)) for one in found)
    return tuple(one for one in clipped if one.opens_at < one.closes_at)
