"""Replicas that say nothing: alive and busy, or behind a network that is cut?

A connection over a cut network looks like one to a replica that thinks. So a replica at work that has been silent for a
moment is asked whether it is there; if it is not, twice, what it was working on is done elsewhere, and it gets nothing
until it answers again.
"""

import asyncio
import logging

from orchestrator.door.limits import Limits
from orchestrator.door.roster import Roster
from orchestrator.door.upstream import Upstream

log = logging.getLogger("halve.door")

ASKED_TIMES = 2


class Watch:
    """Of all replicas of a roster."""

    def __init__(self, roster: Roster, upstream: Upstream, limits: Limits) -> None:
        self._roster = roster
        self._upstream = upstream
        self._limits = limits
        self._asking: dict[str, asyncio.Task[None]] = {}  # by url

    def look(self) -> None:
        """Ask whoever has to be asked. To be called about once a second."""
        self._asking = {url: task for url, task in self._asking.items() if not task.done()}
        for url in self._upstream.silent(self._limits.doubt) | self._roster.unheard:
            if url not in self._asking:
                self._asking[url] = asyncio.create_task(self._ask(url))

    async def _ask(self, url: str) -> None:
        known = url in self._roster.unheard
        for _ in range(1 if known else ASKED_TIMES):
            try:
                async with asyncio.timeout(self._limits.answer):
                    there = await self._upstream.answers(url)
            except TimeoutError:
                there = False
            if there:
                if known:
                    log.info("%s answers again", url)
                self._roster.hear(url)
                break
        else:
            self._roster.miss(url)
            lost = self._upstream.give_up(url)
            if not known:
                log.warning("%s does not answer any more: %d requests go elsewhere", url, lost)
            return
        await asyncio.sleep(self._limits.doubt)  # it is there and thinks
