"""The pages: each takes what is asked for, looks, and fills its template."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi.responses import JSONResponse, RedirectResponse, Response

from orchestrator import decisions, seeds
from orchestrator.dashboard import glance, market
from orchestrator.dashboard.asked import (
    PRICES_DAYS,
    TIMELINE_DAYS,
    From,
    Moment,
    Month,
    Name,
    Number,
    PricesDays,
    TimelineDays,
    To,
)
from orchestrator.dashboard.costs import shown as month_shown
from orchestrator.dashboard.site import spec_of
from orchestrator.dashboard.timeline import cut
from orchestrator.dashboard.visit import Visit, Visiting
from orchestrator.errors import Refused
from orchestrator.jobs import asking
from orchestrator.ledger import history, jobs
from orchestrator.ledger.deployments import Deployment
from orchestrator.reports import formats

UTC_ZONE = ZoneInfo("UTC")
#: at most so many are listed
JOBS, DECISIONS, OFFERS, RANKED = 50, 15, 60, 8


def zone_of(row: Deployment | None) -> ZoneInfo:
    """The zone that a deployment's hours are in; UTC where its spec cannot be read."""
    try:
        return UTC_ZONE if row is None else spec_of(row).timezone
    except Refused:
        return UTC_ZONE


async def home() -> Response:
    return RedirectResponse("/now", 303)


# now


def now(visit: Visiting) -> Response:
    return now_refusing(visit, None)


def now_refusing(visit: Visit, problem: str | None) -> Response:
    """The page, after something that was asked of it was refused."""
    return visit.render("now.html", 409 if problem else 200, **_now(visit), problem=problem)


def fleet(visit: Visiting) -> Response:
    """The part of it that moves."""
    return visit.render("fleet.html", **_now(visit))


def _now(visit: Visit) -> Mapping[str, Any]:
    site, say = visit.site, visit.say
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


def timeline(
    visit: Visiting,
    deployment: Name = None,
    days: TimelineDays = TIMELINE_DAYS[0],
    start: Annotated[Moment | None, From] = None,
    end: Annotated[Moment | None, To] = None,
) -> Response:
    site = visit.site
    row = site.chosen(deployment)
    zone = zone_of(row)
    end = end or site.now()
    start = start or end - timedelta(days=days)
    span = _span(start, end)
    with site.ledger.read() as tx:
        lost = () if row is None else history.losses(tx, row.name, start, end, 20)
    return visit.render(
        "timeline.html",
        row=row,
        rows=site.deployments(),
        zone=zone,
        days=days,
        ranges=TIMELINE_DAYS,
        start=start,
        end=end,
        earlier=(start - span, start),
        later=(end, end + span) if site.now() - end > timedelta(minutes=1) else None,
        losses=lost,
    )


def timeline_json(
    visit: Visiting, start: Annotated[Moment, From], end: Annotated[Moment, To], deployment: Name = None
) -> Response:
    """The figures of a stretch; 202 and nothing while they are worked out."""
    site = visit.site
    row = site.chosen(deployment)
    _span(start, end)
    if row is None:
        raise Refused("there is no deployment yet")
    known = site.timelines.get(row.name, *cut(start, end))
    return JSONResponse(None, 202) if known is None else JSONResponse(known.value.to_json())


def _span(start: datetime, end: datetime) -> timedelta:
    if end <= start:
        raise Refused("from: want a moment before to")
    return end - start


# costs


def costs(visit: Visiting, month: Month = None, part: bool = False) -> Response:
    """A month's bill; `part`: without the page around it. While it is added up, it says so and asks again."""
    known = visit.site.reports.get(month)
    shown = {"report": None} if known is None else month_shown(known.value, visit.say)
    return visit.render("month.html" if part else "costs.html", asked=month, **shown)


def costs_json(visit: Visiting, month: Month = None) -> Response:
    """What `halve report --json` prints; 202 while it is added up."""
    known = visit.site.reports.get(month)
    return JSONResponse(None, 202) if known is None else JSONResponse(formats.to_json(known.value))


# prices


def prices(visit: Visiting, deployment: Name = None, gpu: Name = None, days: PricesDays = PRICES_DAYS[0]) -> Response:
    site = visit.site
    row = site.chosen(deployment)
    model = _model(row)
    gpu = gpu or None
    found = market.buys(site.ledger, model, gpu)
    return visit.render(
        "prices.html",
        row=row,
        rows=site.deployments(),
        model=model,
        gpu=gpu,
        gpus=market.gpus(site.ledger),
        buys=found[:OFFERS],
        more=max(0, len(found) - OFFERS),
        days=days,
        ranges=PRICES_DAYS,
        zone=zone_of(row),
    )


def prices_json(
    visit: Visiting, deployment: Name = None, gpu: Name = None, days: PricesDays = PRICES_DAYS[0]
) -> Response:
    site = visit.site
    row = site.chosen(deployment)
    end = site.now()
    start = end - timedelta(days=days)
    shown = market.buys(site.ledger, _model(row), gpu or None)
    return JSONResponse(market.moved(site.ledger, shown, *cut(start, end)))


def _model(row: Deployment | None) -> str:
    """Whose speeds count; before there is a deployment, that of the published table."""
    return seeds.MODEL if row is None else spec_of(row).model


# jobs


def batches(visit: Visiting) -> Response:
    return batches_refusing(visit, None)


def batches_refusing(visit: Visit, problem: str | None) -> Response:
    """The page, after something that was asked of it was refused."""
    return visit.render("jobs.html", 409 if problem else 200, **_jobs(visit), problem=problem)


def batch_list(visit: Visiting) -> Response:
    """The part of it that moves."""
    return visit.render("batches.html", **_jobs(visit))


def _jobs(visit: Visit) -> Mapping[str, Any]:
    site = visit.site
    at = site.now()
    with site.ledger.read() as tx:
        known = jobs.known(tx)[::-1]
        found = [asking.values(one, jobs.progress(tx, one, at), at) for one in known[:JOBS]]
    zones = {row.name: zone_of(row) for row in site.deployments()}
    return {"jobs": found, "more": max(0, len(known) - JOBS), "zones": zones}


# why


def why(visit: Visiting, deployment: Name = None) -> Response:
    site = visit.site
    row = site.chosen(deployment)
    found = (
        []
        if row is None
        else decisions.newest(site.settings.home, site.ledger, row.name, site.now(), DECISIONS, again=False)
    )
    return visit.render("why.html", row=row, rows=site.deployments(), zone=zone_of(row), decisions=found)


def grounds(visit: Visiting, deployment: str, tick: Number) -> Response:
    """What one decision was taken by."""
    site = visit.site
    row = site.chosen(deployment)
    found = decisions.grounds(site.settings.home, site.ledger, deployment, tick)
    return visit.render("grounds.html", grounds=found, zone=zone_of(row), most=RANKED)
