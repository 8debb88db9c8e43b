"""What an attempt at an item leads to: is it settled, or tried again, when, and is that the item's own fault?"""

from datetime import datetime, timedelta

from orchestrator.executors import Outcome, Verdict
from orchestrator.ledger.items import Item, Step, given_back
from orchestrator.ledger.jobs import ItemState

#: so many failures of its own settle an item as failed
FAILURES_MAX = 5
#: between the first failure and the next attempt; doubled each time
BACK_OFF_SECONDS = 1.0
BACK_OFF_MAX_SECONDS = 60.0


def next_step(item: Item, outcome: Outcome, now: datetime) -> Step:
    """What to record.

    An item that was lost among others is only suspected: it is tried again alone, after all the rest, and only what is
    lost alone counts as its own failure. So one image that kills its replica every time ends as failed, and the images
    that happened to be beside it do not.
    """
    match outcome.verdict:
        case Verdict.READ:
            return Step(item=item, state=ItemState.DONE, failures=item.failures)
        case Verdict.REFUSED:
            return Step(item=item, state=ItemState.FAILED, failures=item.failures + 1, error=outcome.reason)
        case Verdict.FAULT:
            return _failed(item, outcome.reason, now)
        case Verdict.LOST if item.suspect:
            return _failed(item, outcome.reason, now)
        case Verdict.LOST:
            return Step(item=item, state=ItemState.SUSPECT, failures=item.failures, error=outcome.reason)
        case Verdict.UNAVAILABLE | Verdict.BARRED:
            (step,) = given_back([item])
            return step


def _failed(item: Item, reason: str, now: datetime) -> Step:
    failures = item.failures + 1
    if failures >= FAILURES_MAX:
        reason = f"{reason} ({failures} times, the last {'alone' if item.suspect else 'among others'})"
        return Step(item=item, state=ItemState.FAILED, failures=failures, error=reason)
    back_off = timedelta(seconds=min(BACK_OFF_MAX_SECONDS, BACK_OFF_SECONDS * 2**item.failures))
    state = ItemState.SUSPECT if item.suspect else ItemState.WAITING
    return Step(item=item, state=state, failures=failures, error=reason, not_before=now + back_off)
