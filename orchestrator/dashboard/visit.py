"""A visit: who asks the dashboard for a page, in which language, and whether they may see it."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment

from orchestrator.dashboard.site import Site
from orchestrator.dashboard.words import LANGUAGES, PageWords, chosen


class Stranger(Exception):
    """Somebody who has not logged in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request for a page of a site."""

    site: Site
    environment: Environment
    session: str  # the cookie, empty without one
    language: str
    asked_language: str | None  # by the address; it is kept
    path: str
    query: str

    @property
    def say(self) -> PageWords:
        return PageWords(self.language)

    def render(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A template with what every page needs."""
        common = {
            "say": self.say,
            "page": template.partition(".")[0],
            "path": self.path,
            "query": self.query,
            "actions": self.site.settings.actions,
            "seal": self.site.access.form_seal(self.session) if self.session else "",
            "simulated": self.site.ledger.simulated(),
            "problem": None,
        }
        answer = HTMLResponse(self.environment.get_template(template).render(common | values), status)
        self.keep_language(answer)
        return answer

    def keep_language(self, answer: Response) -> None:
        """Have the next page in the language that was asked for."""
        if self.asked_language in LANGUAGES:
            answer.set_cookie("lang", self.asked_language, max_age=31_536_000, samesite="strict", httponly=True)


def of(request: Request) -> Visit:
    """The visit that a request is."""
    site, environment = request.app.state.site, request.app.state.environment
    assert isinstance(site, Site) and isinstance(environment, Environment)
    cookies, asked = request.cookies, request.query_params.get("lang")
    return Visit(
        site=site,
        environment=environment,
        session=cookies.get(site.settings.cookie, ""),
        asked_language=asked,
        language=chosen(asked, cookies.get("lang"), request.headers.get("accept-language", "")),
        path=request.url.path,
        query=request.url.query,
    )


async def visit(request: Request) -> Visit:
    """It waits for nothing, so it needs no thread."""
    return of(request)


Visiting = Annotated[Visit, Depends(visit)]


async def logged_in(here: Visiting) -> None:
    """Raises Stranger."""
    if not here.site.access.holds(here.session, here.site.clock.now()):
        raise Stranger
