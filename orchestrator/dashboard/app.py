"""The dashboard as an application: its addresses, who may see them, and what a browser may do with them."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.dashboard import actions, asked, looks, pages
from orchestrator.dashboard import visit as visits
from orchestrator.dashboard.access import SESSION
from orchestrator.dashboard.refusals import refusal
from orchestrator.dashboard.site import Site
from orchestrator.dashboard.visit import Stranger, Visiting, logged_in
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
#: a form is a few words
MOST_BYTES, MOST_FIELDS = 10_000, 20
#: for who has logged in
PAGES: dict[str, Callable[..., object]] = {
    "/": pages.home,
    "/now": pages.now,
    "/now/fleet": pages.fleet,
    "/timeline": pages.timeline,
    "/timeline.json": pages.timeline_json,
    "/costs": pages.costs,
    "/costs.json": pages.costs_json,
    "/prices": pages.prices,
    "/prices.json": pages.prices_json,
    "/jobs": pages.batches,
    "/jobs/list": pages.batch_list,
    "/why": pages.why,
    "/why/{deployment}/{tick}": pages.grounds,
}
DEEDS: dict[str, Callable[..., object]] = {
    "/override": actions.override,
    "/drain": actions.drain,
    "/job": actions.job,
}


def application(site: Site) -> FastAPI:
    """Everything wired. `site` is closed with it."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        site.warm()
        yield
        site.close()

    app = FastAPI(
        openapi_url=None,  # pages are for people: nobody is told of an interface that may change
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        max_body_size=MOST_BYTES,
        form_limits={"max_files": 0, "max_fields": MOST_FIELDS},
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False),
            Middleware(GZipMiddleware, minimum_size=2000),
            Middleware(Headed),
        ],
        lifespan=life,
    )
    app.add_exception_handler(Stranger, turned_away)
    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(RequestValidationError, senseless)
    app.add_exception_handler(HTTPException, told)
    app.state.site = site
    app.state.environment = looks.environment()
    seen = ["GET", "HEAD"]
    app.add_api_route("/healthz", health, methods=seen)
    app.add_api_route("/login", login, methods=seen)
    app.add_api_route("/login", log_in, methods=["POST"])
    inside = [Depends(logged_in)]
    app.add_api_route("/logout", log_out, methods=["POST"], dependencies=inside)
    for path, page in PAGES.items():
        app.add_api_route(path, page, methods=seen, dependencies=inside)
    for path, deed in DEEDS.items():
        sealed = [*inside, Depends(actions.allowed), Depends(actions.own_form)]
        app.add_api_route(path, deed, methods=["POST"], dependencies=sealed)
    app.mount("/static", StaticFiles(directory=looks.STATIC))
    return app


class Headed:
    """Every answer says what a browser may do with it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                lasting = scope["path"].startswith("/static/") and scope["query_string"]
                headers["Cache-Control"] = FOR_EVER if lasting else "no-store"
            await send(message)

        await self._app(scope, receive, sent)


async def health() -> Response:
    return PlainTextResponse("ok\n")


def login(visit: Visiting) -> Response:
    return visit.render("login.html")


def log_in(visit: Visiting, token: Annotated[str, Form()] = "") -> Response:
    site = visit.site
    if not site.access.admits(token):
        return visit.render("login.html", 403, problem="that is not the token")
    answer = RedirectResponse("/now", 303)
    answer.set_cookie(
        site.settings.cookie,
        site.access.session(site.clock.now()),
        max_age=int(SESSION.total_seconds()),
        httponly=True,
        samesite="strict",
    )
    return answer


async def log_out(visit: Visiting) -> Response:
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(visit.site.settings.cookie, httponly=True, samesite="strict")
    return answer


async def turned_away(request: Request, stranger: Exception) -> Response:
    """Who has not logged in sees the login page; a part of a page, or a form, is told so."""
    page = request.method == "GET" and "html" in request.headers.get("accept", "")
    if page and "hx-request" not in request.headers:
        answer = RedirectResponse("/login", 303)
        visits.of(request).keep_language(answer)
        return answer
    return _line(request, "log in first", 401)


def refused(request: Request, refusal: Exception) -> Response:
    """What was asked for is not there."""
    return _no(request, str(refusal), 404)


def senseless(request: Request, error: Exception) -> Response:
    """What was asked for cannot be meant."""
    assert isinstance(error, RequestValidationError)
    return _no(request, asked.wrong(error), 400)


async def told(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _line(request, error.detail, error.status_code, error.headers)


def _line(request: Request, words: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Without a page around it."""
    return PlainTextResponse(f"{refusal(words, visits.of(request).say)}\n", status, headers)


def _no(request: Request, words: str, status: int) -> Response:
    """In a page, with the way back; figures are for a script."""
    if request.url.path.endswith(".json"):
        return JSONResponse({"error": words}, status)
    return visits.of(request).render("refused.html", status, words=words)
