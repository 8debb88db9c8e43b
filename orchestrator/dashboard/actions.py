"""What may be done from a page: each form calls the function behind the command of the same name."""

import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from orchestrator import control, holding
from orchestrator.dashboard import pages
from orchestrator.dashboard.site import Site
from orchestrator.errors import Refused
from orchestrator.jobs import asking

log = logging.getLogger("halve.dashboard")

Form = Mapping[str, str]
Deed = Callable[[Site, Form], None]
#: a form is a few words
MOST_BYTES = 10_000


def override(site: Site, form: Form) -> None:
    """`halve override`: hold a deployment open or closed, or let go of it."""
    name, state = form.get("deployment", ""), form.get("state", "")
    if state == "none":
        holding.lift(site.ledger, name, site.clock.now())
        return
    if state not in holding.STATES:
        raise Refused(f"override: {state}: want {' or '.join(holding.STATES)}")
    # a browser's date and time have a T between them
    holding.hold(site.ledger, name, state, form.get("until", "").strip().replace("T", " "), site.clock.now())


def drain(site: Site, form: Form) -> None:
    """`halve down`: it drains beside the page, which shows how far it is."""
    name = form.get("deployment", "")
    control.find(site.ledger, name)
    if form.get("sure") != name:
        raise Refused(f"drain: type the deployment's name, {name}, to say that you mean it")
    threading.Thread(target=_down, args=(site, name), name=f"down {name}", daemon=True).start()


def job(site: Site, form: Form) -> None:
    """`halve job pause`, `resume`, `cancel`."""
    steps = {"pause": asking.pause, "resume": asking.resume, "cancel": asking.cancel}
    step = steps.get(form.get("do", ""))
    number = form.get("job", "")
    if step is None or not number.isdigit():
        raise Refused("job: want its number, and pause, resume or cancel")
    step(site.ledger, int(number), site.clock.now())


def endpoint(deed: Deed, page: Callable[[Request, str | None], Response], back: str) -> "Endpoint":
    """A form's address: the deed, then back to its page; where it is refused, the page says why."""
    return partial(_done, deed, page, back)


Endpoint = Callable[[Request], Awaitable[Response]]


async def _done(deed: Deed, page: Callable[[Request, str | None], Response], back: str, request: Request) -> Response:
    site = pages.site_of(request)
    if not site.settings.actions:
        return PlainTextResponse("this dashboard only shows; start it with --allow-actions\n", 403)
    if int(request.headers.get("content-length") or MOST_BYTES + 1) > MOST_BYTES:
        return PlainTextResponse("that is no form of this dashboard\n", 413)
    async with request.form(max_files=0, max_fields=20) as sent:
        form = {name: value for name, value in sent.items() if isinstance(value, str)}
    session = request.cookies.get(request.app.state.cookie, "")
    if not site.access.is_own_form(form.get("seal", ""), session):
        return PlainTextResponse("that form is not from this page: open it again\n", 403)
    try:
        await run_in_threadpool(deed, site, form)
    except Refused as refusal:
        return await run_in_threadpool(page, request, str(refusal))
    log.info("%s %s", deed.__name__, {name: value for name, value in form.items() if name != "seal"})
    site.changed()
    return RedirectResponse(back, 303)


def _down(site: Site, name: str) -> None:
    try:
        control.down(site.settings.home, site.ledger, name, lambda words: log.info("down %s: %s", name, words))
    except Refused as refusal:
        log.error("down %s: %s", name, refusal)
