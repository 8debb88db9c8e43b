"""The dashboard as an application: its addresses, who may see them, and what a browser may do with them."""

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from orchestrator.dashboard import actions, looks, pages
from orchestrator.dashboard.access import SESSION
from orchestrator.dashboard.site import Site
from orchestrator.dashboard.words import LANGUAGES, chosen
from orchestrator.errors import Refused

#: by these names a browser reaches loopback, through a tunnel too; under any other name somebody else points at us
HOSTS = ["127.0.0.1", "localhost", "[::1]"]
#: nothing from elsewhere, no script in a page, no frame around it
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
FOR_EVER = "public, max-age=31536000, immutable"
#: what is to be seen without a login
OPEN = ("/login", "/static/", "/healthz")


def application(site: Site) -> Starlette:
    """Everything wired. `site` is closed with it."""

    @asynccontextmanager
    async def life(app: Starlette) -> Any:
        site.warm()
        yield
        site.close()

    app = Starlette(
        routes=[
            Route("/", pages.home),
            Route("/healthz", health),
            Route("/login", login, methods=["GET"]),
            Route("/login", log_in, methods=["POST"]),
            Route("/logout", log_out, methods=["POST"]),
            Route("/now", pages.now),
            Route("/now/fleet", pages.fleet),
            Route("/timeline", pages.timeline),
            Route("/timeline.json", pages.timeline_json),
            Route("/costs", pages.costs),
            Route("/costs.json", pages.costs_json),
            Route("/prices", pages.prices),
            Route("/prices.json", pages.prices_json),
            Route("/jobs", pages.batches),
            Route("/jobs/list", pages.batch_list),
            Route("/why", pages.why),
            Route("/why/{deployment}/{tick:int}", pages.grounds),
            Route("/override", actions.endpoint(actions.override, pages.now, "/now"), methods=["POST"]),
            Route("/drain", actions.endpoint(actions.drain, pages.now, "/now"), methods=["POST"]),
            Route("/job", actions.endpoint(actions.job, pages.batches, "/jobs"), methods=["POST"]),
            Mount("/static", StaticFiles(directory=looks.STATIC)),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False),
            Middleware(GZipMiddleware, minimum_size=2000),
            Middleware(BaseHTTPMiddleware, dispatch=_guarded),
        ],
        exception_handlers={Refused: refused},
        lifespan=life,
    )
    app.state.site = site
    app.state.environment = looks.environment()
    # a cookie goes to every port of a host: two dashboards must not log each other out
    app.state.cookie = f"halve_{site.settings.listen.rpartition(':')[2]}"
    return app


async def _guarded(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
    """Who has not logged in sees the login page; every answer says what a browser may do with it."""
    asked = request.query_params.get("lang")
    request.state.language = chosen(asked, request.cookies.get("lang"), request.headers.get("accept-language", ""))
    path = request.url.path
    if path.startswith(OPEN) or _logged_in(request):
        answer = await go_on(request)
    elif request.method == "GET" and "html" in request.headers.get("accept", "") and not _is_part(request):
        answer = RedirectResponse("/login", 303)
    else:
        answer = PlainTextResponse("log in first\n", 401)
    if asked in LANGUAGES:
        answer.set_cookie("lang", asked, max_age=31_536_000, samesite="strict", httponly=True)
    answer.headers.update(HEADERS)
    answer.headers["Cache-Control"] = FOR_EVER if path.startswith("/static/") and request.url.query else "no-store"
    return answer


def _logged_in(request: Request) -> bool:
    site = pages.site_of(request)
    return site.access.holds(request.cookies.get(request.app.state.cookie, ""), site.clock.now())


def _is_part(request: Request) -> bool:
    return "hx-request" in request.headers


def health(request: Request) -> Response:
    return PlainTextResponse("ok\n")


def login(request: Request, problem: str | None = None) -> Response:
    answer = pages.render(request, "login.html", 403 if problem else 200, problem=problem)
    assert isinstance(answer, HTMLResponse)
    return answer


async def log_in(request: Request) -> Response:
    site = pages.site_of(request)
    if int(request.headers.get("content-length") or actions.MOST_BYTES + 1) > actions.MOST_BYTES:
        return PlainTextResponse("that is no form of this dashboard\n", 413)
    async with request.form(max_files=0, max_fields=5) as form:
        said = form.get("token")
    if not isinstance(said, str) or not site.access.admits(said):
        return await run_in_threadpool(login, request, "that is not the token")
    answer = RedirectResponse("/now", 303)
    answer.set_cookie(
        request.app.state.cookie,
        site.access.session(site.clock.now()),
        max_age=int(SESSION.total_seconds()),
        httponly=True,
        samesite="strict",
    )
    return answer


def log_out(request: Request) -> Response:
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(request.app.state.cookie, httponly=True, samesite="strict")
    return answer


def refused(request: Request, refusal: Exception) -> Response:
    """What was asked for cannot be shown: in a page, with the way back."""
    return pages.render(request, "refused.html", 404, words=str(refusal))
