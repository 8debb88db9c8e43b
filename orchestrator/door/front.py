"""What the door listens with: control for this machine, everything else for the replicas."""

import asyncio
import base64
import hmac
import ipaddress
import logging
import os
import time
from dataclasses import asdict
from datetime import UTC, datetime

from aiohttp import web
from pydantic import TypeAdapter

from orchestrator.door import heads
from orchestrator.door.limits import Limits
from orchestrator.door.loads import Counts, Loads
from orchestrator.door.proxy import Proxy
from orchestrator.door.replies import reply
from orchestrator.door.roster import Roster
from orchestrator.door.serving import Published
from orchestrator.door.upstream import Upstream
from orchestrator.door.watch import Watch
from orchestrator.pinning import Pins

log = logging.getLogger("halve.door")

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LOADS = TypeAdapter(Loads)


class Front:
    """Sorts what comes in."""

    def __init__(
        self, published: Published, token: bytes | None, started_at: datetime, pins: Pins | None, limits: Limits
    ) -> None:
        self.limits = limits
        self.token = token
        self._started_at = started_at
        self._published = published
        self.counts = Counts()
        self.roster = Roster(published, self.counts)
        self.upstream = Upstream(pins)
        self.watch = Watch(self.roster, self.upstream, limits)
        # A token of the door's says nothing to a replica, so it stays here; without one Authorization is not ours.
        self.proxy = Proxy(self.roster, self.upstream, self.counts, keep_token=token is None, limits=limits)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path.startswith("/-/"):
            return self._control(request)
        if self.token is not None and not self._admits(request, self.token):
            says = {"error": "unauthorized", "reason": "a bearer token is needed"}
            refusal = reply(401, says, heads.request_id(request), close=True)
            # A browser asks its user for a name, which may be any, and a password, which is the token.
            refusal.headers["WWW-Authenticate"] = 'Basic realm="halve", charset="UTF-8"' if _page(request) else "Bearer"
            self.counts.totals.answered(401)
            return refusal
        identity = heads.request_id(request)
        begun = time.monotonic()
        try:
            answer = await self.proxy.answer(request, identity)
        except asyncio.CancelledError:
            self.counts.totals.gone += 1
            raise
        self.counts.totals.answered(answer.status)
        if answer.status >= 500 and answer.status != 503:  # to be closed or full is no news, and can be much of it
            seconds = time.monotonic() - begun
            log.warning("request %s: %s %s %d %.3fs", identity, request.method, _path(request), answer.status, seconds)
        return answer

    def _admits(self, request: web.BaseRequest, token: bytes) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic" and _page(request):
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2].decode("utf-8", "replace")
            except ValueError:
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode("utf-8", "replace"), token)

    def _control(self, request: web.BaseRequest) -> web.Response:
        if not _from_here(request):
            return reply(403, {"error": "forbidden", "reason": "control answers this machine only"})
        # Whoever asks has perhaps just published: what is said here holds for the newest set.
        self.roster.refresh()
        match request.method, request.raw_path.partition("?")[0]:
            case "GET", "/-/status":
                return reply(200, self._status())
            case "GET", "/-/loads":
                return self._loads(request)
            case "GET", "/-/metrics":
                return self._metrics()
            case _:
                reason = "there are GET /-/status, /-/loads and /-/metrics"
                return reply(404, {"error": "not found", "reason": reason})

    def _status(self) -> dict[str, object]:
        return {
            "pid": os.getpid(),
            "deployment": self._published.serving.deployment,
            "started_at": self._started_at.isoformat(),
            "set_version": self._published.version,
            "in_flight": self.roster.in_flight,
            "waiting": self.roster.waiting,
            "totals": asdict(self.counts.totals),
        }

    def _metrics(self) -> web.Response:
        from orchestrator.door.metrics import text  # where nobody scrapes, its library is not loaded

        return web.Response(body=text(self.counts, self.roster), headers={"Content-Type": METRICS_TYPE})

    def _loads(self, request: web.BaseRequest) -> web.Response:
        after = request.rel_url.query.get("after")
        try:
            # A + in a query is a blank unless the client escaped it; no ISO time has a blank there otherwise.
            since = datetime.fromisoformat(after.replace(" ", "+")) if after else None
        except ValueError:
            return reply(400, {"error": "bad request", "reason": "after is an ISO 8601 time"})
        if since is not None and since.tzinfo is None:
            since = since.replace(tzinfo=UTC)
        return web.Response(body=_LOADS.dump_json(self.counts.loads(since)), content_type="application/json")


def _page(request: web.BaseRequest) -> bool:
    return heads.page(heads.target(request))


def _path(request: web.BaseRequest) -> str:
    """For the log, which is no place for what people ask."""
    return heads.target(request).partition("?")[0][:200]


def _from_here(request: web.BaseRequest) -> bool:
    """Whether the peer is a process of this machine, and not a proxy that speaks for somebody else."""
    transport = request.transport
    if transport is None or "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        return False
    peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    address = ipaddress.ip_address(peer[0].partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback or peer[0] == own[0]
