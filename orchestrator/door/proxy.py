"""One request through the door: choose a replica, send, send elsewhere if the replica dies, pass the answer on."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from orchestrator.door import heads
from orchestrator.door.body import Body, Memory, TooLarge, TooSlow
from orchestrator.door.connection import Broken, Reply
from orchestrator.door.limits import Limits
from orchestrator.door.loads import Counts
from orchestrator.door.rate_limit import Bucket
from orchestrator.door.replies import Refusal, absent, closed, reply, too_large, too_often, unserved
from orchestrator.door.roster import Crowded, Roster
from orchestrator.door.serving import Replica
from orchestrator.door.upstream import NotSent, Upstream

log = logging.getLogger("halve.door")

SENDS_MAX = 3  # an image that kills whoever reads it must not meet every replica
BUSY_BYTES_MAX = 64 * 1024


@dataclass(slots=True)
class Errand:
    """A request on its way."""

    request: web.BaseRequest
    target: str
    identity: str
    body: Body
    head: bytes
    repeatable: bool
    recognition: bool
    page: bool  # of the web pages: their visitor stays with one replica
    online: bool  # not a batch's, which waits for all others at the replica, and repeats by itself what was lost
    since: float


class Proxy:
    """Passes requests to the replicas of the roster."""

    def __init__(
        self,
        roster: Roster,
        upstream: Upstream,
        counts: Counts,
        *,
        keep_token: bool,
        limits: Limits,
    ) -> None:
        self._roster = roster
        self._upstream = upstream
        self._counts = counts
        self._keep_token = keep_token
        self._limits = limits
        self._memory = Memory()
        self._bucket = Bucket()
        self._watching: set[asyncio.Transport] = set()  # who follows events, for as long as a page is open

    async def answer(self, request: web.BaseRequest, identity: str) -> web.StreamResponse:
        """The answer to a request, from a replica or else from the door. `identity`: its X-Request-Id."""
        target = heads.target(request)
        if request.method == "CONNECT" or heads.private(target):
            return reply(404, {"error": "not found", "reason": "this does not go through the door"}, identity)
        try:
            body = Body(request, self._memory, self._limits)
        except TooLarge:
            return too_large(identity)
        if not self._roster.serving.open:
            self._roster.refresh()  # it may open this very moment
        serving = self._roster.serving
        if not serving.open:
            return closed(serving).to(identity)
        recognition = heads.recognition(request.method, target)
        online = request.headers.get("X-Halve-Priority") != "batch"
        if recognition:
            if online and (seconds := self._bucket.wait(serving.rate_limit)):
                return too_often(seconds, identity)
            self._counts.roll().ask()
        try:
            if not request.content.is_eof() and request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
            await body.keep()
            length = len(body.kept) if body.whole else body.length
            errand = Errand(
                request=request,
                target=target,
                identity=identity,
                body=body,
                head=heads.forwarded(request, target, identity, length, self._keep_token),
                repeatable=heads.repeatable(request.method, target) and online,
                recognition=recognition,
                page=heads.page(target),
                online=online,
                since=time.monotonic(),
            )
            return await self._carry(errand)
        except TooLarge:
            return too_large(identity)
        except web.RequestPayloadError as error:
            return reply(400, {"error": "bad request", "reason": f"the body is broken: {error}"}, identity, close=True)
        except TooSlow:
            return reply(408, {"error": "timeout", "reason": "the body stopped coming"}, identity, close=True)
        finally:
            body.forget()

    def hang_up(self) -> None:
        """On those who only follow events: they come again, and nobody else has to wait for them to leave."""
        for transport in self._watching:
            transport.abort()

    async def _carry(self, errand: Errand) -> web.StreamResponse:
        """Find a replica for it until one has answered, time is up, or trying again would do harm."""
        until = errand.since + self._limits.hold
        seat = errand.request.cookies.get(heads.SEAT, "") if errand.page else ""
        busy: dict[str, web.Response] = {}  # what replicas said that would rather not
        sends = losses = 0
        anew = False
        while sends < SENDS_MAX:
            serving = self._roster.serving
            if not serving.open:
                return closed(serving).to(errand.identity)
            if time.monotonic() >= until:
                return self._refuse(absent("no replica answered in time"), errand)
            replica = self._roster.take(busy, seat)
            if replica is None:
                if busy and not serving.starting:
                    return self._passed_on(busy, errand)
                if not (serving.replicas or serving.starting):
                    return self._refuse(unserved(serving), errand)
                try:
                    # Somebody who wants to see a page is a reason to start a replica, too.
                    counted = errand.recognition or errand.page
                    self._counts.totals.held += 1
                    await self._roster.change(until, soon=bool(busy), counted=counted, online=errand.online)
                except Crowded:
                    return self._refuse(absent("too many requests wait already"), errand)
                busy.clear()
                continue
            try:
                answer = await self._try(errand, replica, anew, busy)
            except NotSent as error:
                self._suspect(replica, error, errand)
                self._counts.totals.again += 1
                continue
            except Broken as error:
                if not (errand.repeatable and errand.body.whole):
                    self._suspect(replica, error, errand)
                    self._failed(errand)
                    return reply(502, {"error": "broken", "reason": f"the replica died: {error}"}, errand.identity)
                # A kept connection may have been closed as we wrote: that says nothing about the replica. One behind a
                # cut network did not die of this request either.
                if not error.stale:
                    self._suspect(replica, error, errand)
                    sends += not error.unheard
                losses += 1
                if losses <= SENDS_MAX:  # it had been taken, for however long: now it waits anew
                    until = time.monotonic() + self._limits.hold
                self._counts.totals.again += 1
                anew = anew or error.stale  # once per request: what kills replicas looks the same from here
            else:
                if answer is not None:
                    return answer
        self._failed(errand)
        log.warning("request %s: %d replicas died of it", errand.identity, sends)
        return absent(f"{sends} replicas died of this request").to(errand.identity)

    async def _try(
        self, errand: Errand, replica: Replica, anew: bool, busy: dict[str, web.Response]
    ) -> web.StreamResponse | None:
        """Send it to one replica; None when that one is busy or draining, its words then in `busy`."""
        body, request, working = errand.body, errand.request, True
        try:
            answer = await self._upstream.send(
                replica,
                errand.head,
                body.kept if body.whole else body.stream(),
                head_only=request.method == "HEAD",
                anew=anew,
            )
            try:
                if answer.status == 503 and body.whole and "Retry-After" in answer.headers:
                    busy[replica.id] = await _small(answer, errand.identity)
                    self._roster.refresh()  # it may have been withdrawn a moment ago
                    return None
                self._count(errand, replica, answer)
                if errand.page:
                    self._seat(errand, replica, answer)
                    if answer.headers.get("Content-Type", "").startswith("text/event-stream"):
                        # It lasts as long as somebody looks at the page, which is no work, and no reason to stay.
                        self._roster.give_back(replica)
                        working = False
                        return await self._follow(errand, answer)
                return await self._relay(errand, answer)
            finally:
                answer.close()
        finally:
            if working:
                self._roster.give_back(replica)

    def _seat(self, errand: Errand, replica: Replica, answer: Reply) -> None:
        """Have the visitor of a page come back to the same replica."""
        if errand.request.cookies.get(heads.SEAT) != replica.id:
            secure = "; Secure" if errand.request.secure else ""
            seat = f"{heads.SEAT}={replica.id}; Path={heads.PAGES}; HttpOnly; SameSite=Lax{secure}"
            answer.headers.add("Set-Cookie", seat)

    def _count(self, errand: Errand, replica: Replica, answer: Reply) -> None:
        if answer.status >= 500:
            self._failed(errand)
        if answer.status >= 500 or not errand.recognition:
            return
        tally = self._counts.roll()
        tally.latency((time.monotonic() - errand.since) * 1000, online=errand.online)
        if answer.status < 400:
            said = answer.headers.get("X-Halve-Images")
            tally.read(replica.id, int(said) if said and said.isdecimal() and len(said) < 9 else 1)

    async def _relay(self, errand: Errand, answer: Reply) -> web.StreamResponse:
        answer.headers["X-Request-Id"] = errand.identity
        answer.headers.setdefault("Server", "halve")  # rather than the names and versions of our libraries
        if answer.complete:
            return web.Response(
                status=answer.status, reason=answer.reason, headers=answer.headers, body=await answer.read()
            )
        response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=answer.headers)
        await response.prepare(errand.request)
        try:
            while piece := await answer.read():
                await response.write(piece)
        except Broken as error:
            # The client has the head already: nothing can be taken back, only cut off.
            log.warning("request %s: the replica died within its answer (%s)", errand.identity, error)
            self._failed(errand)
            if errand.request.transport is not None:
                errand.request.transport.abort()
            return response
        await response.write_eof()
        return response

    async def _follow(self, errand: Errand, answer: Reply) -> web.StreamResponse:
        transport = errand.request.transport
        if transport is None:  # gone already
            raise ConnectionResetError
        self._watching.add(transport)
        try:
            return await self._relay(errand, answer)
        finally:
            self._watching.discard(transport)

    def _passed_on(self, busy: Mapping[str, web.Response], errand: Errand) -> web.Response:
        """What the last of the busy replicas said, when all are."""
        self._failed(errand)
        return list(busy.values())[-1]

    def _refuse(self, refusal: Refusal, errand: Errand) -> web.Response:
        if errand.recognition:
            self._counts.roll().refused += 1
        return refusal.to(errand.identity)

    def _failed(self, errand: Errand) -> None:
        if errand.recognition:
            self._counts.roll().failed += 1

    def _suspect(self, replica: Replica, error: NotSent | Broken, errand: Errand) -> None:
        if error.unheard:
            self._roster.miss(replica.url)
        elif self._roster.suspect(replica):
            log.warning("replica %s at %s: %s (request %s)", replica.id, replica.url, error, errand.identity)
        self._roster.refresh()  # the daemon may know more by now


async def _small(answer: Reply, identity: str) -> web.Response:
    """A short answer as a whole; what is beyond 64 KiB of it is left."""
    said = b""
    while len(said) < BUSY_BYTES_MAX and (piece := await answer.read()):
        said += piece
    headers = answer.headers.copy()
    headers.popall("Content-Length", None)
    headers["X-Request-Id"] = identity
    return web.Response(status=answer.status, reason=answer.reason, headers=headers, body=said)
