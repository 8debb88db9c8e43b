"""What may be done from a page: each form calls the function behind the command of the same name."""

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

from fastapi import Form, HTTPException
from fastapi.responses import RedirectResponse, Response

from orchestrator import control, holding
from orchestrator.dashboard import pages
from orchestrator.dashboard.site import Site
from orchestrator.dashboard.visit import Visit, Visiting
from orchestrator.errors import Refused
from orchestrator.jobs import asking
from orchestrator.numbers import MOST_NUMBER

log = logging.getLogger("halve.dashboard")

STEPS = {"pause": asking.pause, "resume": asking.resume, "cancel": asking.cancel}

Said = Annotated[str, Form()]


async def allowed(visit: Visiting) -> None:
    """Raises HTTPException where the dashboard only shows."""
    if not visit.site.settings.actions:
        raise HTTPException(403, "this dashboard only shows; start it with --allow-actions")


async def own_form(visit: Visiting, seal: Said = "") -> None:
    """Raises HTTPException for a form that is not from a page of this session."""
    if not visit.site.access.is_own_form(seal, visit.session):
        raise HTTPException(403, "that form is not from this page: open it again")


def override(visit: Visiting, deployment: Said = "", state: Said = "", until: Said = "") -> Response:
    """`halve override`: hold a deployment open or closed, or let go of it."""
    deed = partial(_hold, visit.site, deployment, state, until)
    return _done(visit, deed, f"override {deployment!r}: {state!r} until {until!r}", pages.now_refusing, "/now")


def drain(visit: Visiting, deployment: Said = "", sure: Said = "") -> Response:
    """`halve down`: it drains beside the page, which shows how far it is."""
    return _done(
        visit, partial(_drain, visit.site, deployment, sure), f"down {deployment!r}", pages.now_refusing, "/now"
    )


def job(
    visit: Visiting,
    number: Annotated[int, Form(alias="job", ge=1, le=MOST_NUMBER)],
    do: Annotated[Literal["pause", "resume", "cancel"], Form()],
) -> Response:
    """`halve job pause`, `resume`, `cancel`."""
    deed = partial(STEPS[do], visit.site.ledger, number, visit.site.clock.now())
    return _done(visit, deed, f"job {number}: {do}", pages.batches_refusing, "/jobs")


def _done(
    visit: Visit, deed: Callable[[], object], words: str, refusing: Callable[[Visit, str], Response], back: str
) -> Response:
    """The deed, then back to its page; where it is refused, the page says why."""
    try:
        deed()
    except Refused as refusal:
        return refusing(visit, str(refusal))
    log.info("by hand: %s", words)
    visit.site.changed()
    return RedirectResponse(back, 303)


def _hold(site: Site, name: str, state: str, until: str) -> None:
    if state == "none":
        holding.lift(site.ledger, name, site.clock.now())
        return
    if state not in holding.STATES:
        raise Refused(f"override: {state}: want open or closed")
    # a browser's date and time have a T between them
    holding.hold(site.ledger, name, state, until.strip().replace("T", " "), site.clock.now())


def _drain(site: Site, name: str, sure: str) -> None:
    control.find(site.ledger, name)
    if sure != name:
        raise Refused(f"drain: type the deployment's name, {name}, to say that you mean it")
    threading.Thread(target=_down, args=(site, name), name=f"down {name}", daemon=True).start()


def _down(site: Site, name: str) -> None:
    try:
        control.down(site.settings.home, site.ledger, name, lambda words: log.info("down %s: %s", name, words))
    except Refused as refusal:
        log.error("down %s: %s", name, refusal)
