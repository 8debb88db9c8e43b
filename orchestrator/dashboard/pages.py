"""The pages: each takes what is asked for, looks, and fills its template."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from orchestrator import decisions
from orchestrator.dashboard import glance, market
from orchestrator.dashboard.costs import shown as month_shown
from orchestrator.dashboard.site import Site, spec_of
from orchestrator.dashboard.timeline import LENGTHS, cut
from orchestrator.dashboard.words import PageWords
from orchestrator.errors import Refused
from orchestrator.jobs import asking
from orchestrator.ledger import history, jobs
from orchestrator.ledger.deployments import Deployment
from orchestrator.reports import formats
from orchestrator.reports.frame import is_month

SITE = "site"
UTC_ZONE = ZoneInfo("UTC")
#: what the timeline and the prices may be asked for, in days
RANGES = {"timeline": (1, 7, 30, 90), "prices": (7, 30, 90)}
#: at most so many are listed
JOBS, DECISIONS, OFFERS, RANKED = 50, 15, 60, 8

Page = Callable[[Request], Response]


def render(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A template with what every page needs."""
    site, environment = site_of(request), request.app.state.environment
    assert isinstance(environment, Environment)
    session = request.cookies.get(request.app.state.cookie, "")
    common = {
        "say": PageWords(request.state.language),
        "page": template.partition(".")[0],
        "path": request.url.path,
        "query": request.url.query,
        "actions": site.settings.actions,
        "seal": site.access.form_seal(session) if session else "",
        "simulated": site.ledger.simulated(),
        "problem": None,
    }
    return HTMLResponse(environment.get_template(template).render(common | values), status)


def site_of(request: Request) -> Site:
    site = request.app.state.site
    assert isinstance(site, Site)
    return site


def zone_of(row: Deployment | None) -> ZoneInfo:
    """The zone that a deployment's hours are in; UTC where its spec cannot be read."""
    try:
        return UTC_ZONE if row is None else spec_of(row).timezone
    except Refused:
        return UTC_ZONE


def home(request: Request) -> Response:
    return RedirectResponse("/now", 303)


# now


def now(request: Request, problem: str | None = None) -> Response:
    return render(request, "now.html", 409 if problem else 200, **_now(request), problem=problem)


def fleet(request: Request) -> Response:
    """The part of it that moves."""
    return render(request, "fleet.html", **_now(request))


def _now(request: Request) -> Mapping[str, Any]:
    site, say = site_of(request), PageWords(request.state.language)
    known = site.standing.get()
    rows = {row.name: row for row in site.deployments()}
    zones = {name: zone_of(row) for name, row in rows.items()}
    found: dict[str, Any] = {"standing": None, "rows": rows, "zones": zones, "now": site.now()}
    if known is None:
        return found
    wrong = glance.troubles(known.value, zones, say, simulated=site.ledger.simulated())
    figures = glance.figures(known.value, site.this_month(), wrong, say)
    return found | {"standing": known.value, "figures": figures, "troubles": wrong}


# timeline


def timeline(request: Request) -> Response:
    site = site_of(request)
    row = site.chosen(request.query_params.get("deployment"))
    zone, days = zone_of(row), _days(request, "timeline")
    end = _moment(request, "to") or site.now()
    start = _moment(request, "from") or end - timedelta(days=days)
    span = end - start
    with site.ledger.read() as tx:
        lost = () if row is None else history.losses(tx, row.name, start, end, 20)
    return render(
        request,
        "timeline.html",
        row=row,
        rows=site.deployments(),
        zone=zone,
        days=days,
        ranges=RANGES["timeline"],
        start=start,
        end=end,
        earlier=(start - span, start),
        later=(end, end + span) if site.now() - end > timedelta(minutes=1) else None,
        losses=lost,
    )


def timeline_json(request: Request) -> Response:
    """The figures of a stretch; 202 and nothing while they are worked out."""
    site = site_of(request)
    row = site.chosen(request.query_params.get("deployment"))
    start, end = _moment(request, "from"), _moment(request, "to")
    if row is None or start is None or end is None or end <= start:
        return JSONResponse({"error": "want deployment, from and to"}, 400)
    known = site.timelines.get(row.name, *cut(start, end))
    return JSONResponse(None, 202) if known is None else JSONResponse(known.value.to_json())


# costs


def costs(request: Request) -> Response:
    """A month's bill. While it is added up, the page says so and asks again."""
    site = site_of(request)
    month = request.query_params.get("month")
    if month is not None and not is_month(month):
        raise Refused(f"month {month}: want YYYY-MM, such as 2026-10")
    known = site.reports.get(month)
    template = "month.html" if request.query_params.get("part") else "costs.html"
    if known is None:
        return render(request, template, asked=month, report=None)
    return render(request, template, asked=month, **month_shown(known.value, PageWords(request.state.language)))


def costs_json(request: Request) -> Response:
    """What `halve report --json` prints; 202 while it is added up."""
    site = site_of(request)
    month = request.query_params.get("month")
    known = site.reports.get(month)
    return JSONResponse(None, 202) if known is None else JSONResponse(formats.to_json(known.value))


# prices


def prices(request: Request) -> Response:
    site = site_of(request)
    row = site.chosen(request.query_params.get("deployment"))
    wanted = None if row is None else spec_of(row)
    model = "" if wanted is None else wanted.model
    gpu = request.query_params.get("gpu") or None
    found = market.buys(site.ledger, model, gpu)
    return render(
        request,
        "prices.html",
        row=row,
        rows=site.deployments(),
        model=model,
        gpu=gpu,
        gpus=market.gpus(site.ledger),
        buys=found[:OFFERS],
        more=max(0, len(found) - OFFERS),
        days=_days(request, "prices"),
        ranges=RANGES["prices"],
        zone=zone_of(row),
    )


def prices_json(request: Request) -> Response:
    site = site_of(request)
    row = site.chosen(request.query_params.get("deployment"))
    model = "" if row is None else spec_of(row).model
    end = site.now()
    start = end - timedelta(days=_days(request, "prices"))
    shown = market.buys(site.ledger, model, request.query_params.get("gpu") or None)
    return JSONResponse(market.moved(site.ledger, shown, *cut(start, end)))


# jobs


def batches(request: Request, problem: str | None = None) -> Response:
    return render(request, "jobs.html", 409 if problem else 200, **_jobs(request), problem=problem)


def batch_list(request: Request) -> Response:
    """The part of it that moves."""
    return render(request, "batches.html", **_jobs(request))


def _jobs(request: Request) -> Mapping[str, Any]:
    site = site_of(request)
    at = site.now()
    with site.ledger.read() as tx:
        known = jobs.known(tx)[::-1]
        found = [asking.values(one, jobs.progress(tx, one, at), at) for one in known[:JOBS]]
    zones = {row.name: zone_of(row) for row in site.deployments()}
    return {"jobs": found, "more": max(0, len(known) - JOBS), "zones": zones}


# why


def why(request: Request) -> Response:
    site = site_of(request)
    row = site.chosen(request.query_params.get("deployment"))
    found = (
        []
        if row is None
        else decisions.newest(site.settings.home, site.ledger, row.name, site.now(), DECISIONS, again=False)
    )
    return render(request, "why.html", row=row, rows=site.deployments(), zone=zone_of(row), decisions=found)


def grounds(request: Request) -> Response:
    """What one decision was taken by."""
    site = site_of(request)
    name, tick = request.path_params["deployment"], request.path_params["tick"]
    row = site.chosen(name)
    found = decisions.grounds(site.settings.home, site.ledger, name, tick)
    return render(request, "grounds.html", grounds=found, zone=zone_of(row), most=RANKED)


def _days(request: Request, page: str) -> int:
    said = request.query_params.get("days", "")
    return int(said) if said in map(str, RANGES[page]) else RANGES[page][0]


def _moment(request: Request, name: str) -> datetime | None:
    """Seconds since 1970, to the minute; None when nothing is said, or nothing that makes sense."""
    try:
        seconds = int(float(request.query_params[name]))
        return datetime.fromtimestamp(seconds - seconds % LENGTHS[0], UTC)
    except (KeyError, ValueError, OverflowError, OSError):
        return None
