"""The session to one host, made again whenever it is lost; and why there is none."""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.providers import Misconfigured, NoCapacity, ProviderError, Throttled, Unreachable
from orchestrator.providers.ssh import wheel
from orchestrator.providers.ssh.host import Host
from orchestrator.providers.ssh.session import Lost, Session, Unfit, Untrusted, connect

log = logging.getLogger("halve.link")

#: between attempts to connect
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
#: what is first asked waits for the first attempt this long
PATIENT_SECONDS = 5.0


class Connection:
    """At most one session at a time. `hello` is what the host last said of itself, `why` why there is no session."""

    def __init__(self, home: Path, host: Host, hello: Mapping[str, Any] | None) -> None:
        self._home, self._host = home, host
        self.session: Session | None = None
        self.hello = hello
        self.why: ProviderError = Throttled(f"{host.name}: connecting")
        self._tried = asyncio.Event()  # an attempt has come to an end
        self._now = asyncio.Event()
        self._hurried = False

    @property
    def is_up(self) -> bool:
        return self.session is not None

    async def keep(self, wanted: Callable[[], bool]) -> None:
        """Connect, and connect again, for ever; not while it is not `wanted`."""
        pause = FIRST_PAUSE
        while True:
            if wanted():
                await self._connect()
            self._tried.set()
            if (session := self.session) is not None:
                pause = FIRST_PAUSE
                await session.closed.wait()
                if self.session is session:  # it was not we who let go of it
                    self.session = None
                    self.because(Unreachable(f"{self._host.name}: the connection was lost"))
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._now.wait()
            self._now.clear()
            pause = FIRST_PAUSE if self._hurried else min(2 * pause, LONGEST_PAUSE)

    def hurry(self, hurried: bool) -> None:
        """Try often from now on, for it is about to answer; or no more than usual."""
        self._hurried = hurried
        if hurried:
            self._now.set()

    async def first_attempt(self) -> None:
        """Wait until it has been tried once, but not for long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENT_SECONDS):
                await self._tried.wait()

    async def ask(self, do: str, **what: Any) -> Mapping[str, Any]:
        """The agent's answer. Raises what it names, or why there is no agent."""
        session = self.session
        if session is None:
            raise self.why
        try:
            said = await session.ask(do, **what)
        except Lost as lost:
            raise Unreachable(str(lost)) from None
        if "error" in said:
            kinds = {"NoCapacity": NoCapacity, "Misconfigured": Misconfigured, "Throttled": Throttled}
            raise kinds.get(said["error"], Unreachable)(f"{self._host.name}: {said['words']}")
        return said

    def because(self, why: ProviderError) -> None:
        """Note why there is no session. What lasts is logged once."""
        if str(why) != str(self.why):
            log.warning("%s", why)
        self.why = why

    def close(self) -> None:
        """Let go of the host. What runs there goes on."""
        if self.session is not None:
            self.session.close()
            self.session = None

    async def _connect(self) -> None:
        session = None
        try:
            session = await connect(self._host, self._home)
            self.why = Throttled(f"{self._host.name}: being installed")
            package = await asyncio.to_thread(wheel.packed, self._home.absolute() / "hosts" / "wheels")
            hello = await session.prepare(package)
            ahead = datetime.fromisoformat(hello["clock"]) - datetime.now(UTC)
            self.hello = {**hello, "clock_ahead_seconds": round(ahead.total_seconds(), 1)}
            self.session = session
            log.info("%s: connected: %s", self._host.name, json.dumps(self.hello))
            return
        except Untrusted as error:
            self.because(Misconfigured(str(error)))
        except Unfit as error:
            self.because(NoCapacity(str(error)))
        except Lost as error:
            self.because(Unreachable(str(error)))
        except OSError as error:
            self.because(NoCapacity(f"{error.filename}: {error.strerror}"))
        if session is not None:
            session.close()
