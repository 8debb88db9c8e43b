"""What one host is to this machine: its replicas as they are now or were last seen, and answers in time."""

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.files import read_json, write_json
from orchestrator.providers import Misconfigured, NoCapacity, ProviderError, Throttled, Unreachable
from orchestrator.providers.ssh.connection import Connection
from orchestrator.providers.ssh.host import Files, Host
from orchestrator.providers.ssh.session import Lost, Session, Unfit
from orchestrator.providers.ssh.switch import BOOT_SECONDS, LIVE, Row, Switch

log = logging.getLogger("halve.link")

#: nobody asked, and nothing runs there: it ends
IDLE_SECONDS = 30.0


class LinkServer:
    """What one host is to this machine."""

    def __init__(self, home: Path, host: Host) -> None:
        self._host, self._files = host, Files.of(home, host.name)
        self._seen = read_json(self._files.seen) or {}
        self._rows: list[Row] = self._seen.get("listed", [])
        self._draw: Mapping[str, Any] | None = self._seen.get("draw")
        self._there = self._live()  # what runs there, whatever is listed of it
        self._ports: dict[str, int] = (read_json(self._files.ports) or {}).get("ports", {})
        self._connection = Connection(home, host, self._seen.get("hello"))
        self._unlisted: ProviderError | None = None  # why it could not say what runs there when it was last asked
        self._switch = Switch(host, self._files)
        self._wake = asyncio.Event()
        self._leaving = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._launching = 0  # calls under way
        self._asked_at = self._busy_at = time.monotonic()

    async def run(self) -> None:
        """Until nothing needs it, or a signal ends it."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._leave)
        connecting = self._connection.keep(lambda: not self._switch.is_off)
        tasks = [asyncio.create_task(one) for one in (connecting, self._look_after())]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, self._stopping, self._starting):
            if task is not None:
                task.cancel()
        self._connection.close()
        for task in done:
            task.result()  # a mistake of ours ends it, and is in its log

    def _leave(self) -> None:
        self._leaving.set()
        self._wake.set()

    async def answer(self, do: str, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raises ProviderError."""
        self._asked_at = time.monotonic()
        does: dict[str, Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]] = {
            "look": self._look,
            "launch": self._launch,
            "terminate": self._terminate,
            "logs": self._logs,
            "remove": self._remove,
        }
        if do not in does:
            raise Misconfigured(f"a link cannot {do}")
        return await does[do](asked)

    # what is asked

    async def _look(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """The host as it is now, or as it was last seen."""
        await self._connection.first_attempt()
        if self._connection.is_up:
            try:
                await self._list(asked["now"])
                self._unlisted = None
            except ProviderError as error:
                self._unlisted = error
        self._keep_seen()
        return {"can_start": self._can_start(), **self._seen}

    async def _launch(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        self._busy_at = time.monotonic()
        if self._switch.has_ended(asked["token"]):
            return {"provider_id": asked["token"]}  # it ran, and nobody is switched on for it again
        await self._connection.first_attempt()
        if self._stopping is not None:
            raise Throttled(f"{self._host.name} is being switched off")
        if not self._connection.is_up and self._can_start():
            self._start()
        now = asked["now"] if self._live() else self._switch.paid_since(asked["now"], self._rows)
        self._launching += 1
        try:
            said = await self._connection.ask("launch", now=now, token=asked["token"], payload=asked["payload"])
            self._there.add(asked["token"])
        finally:
            self._launching -= 1
        self._switch.used(asked["now"])
        return {"provider_id": said["provider_id"]}

    async def _terminate(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        await self._connection.first_attempt()
        token = asked["provider_id"]
        if token in self._live():
            self._switch.to_end(token)
        if self._switch.is_off:
            return {}
        try:
            await self._connection.ask("terminate", now=asked["now"], provider_id=token)
        finally:
            self._wake.set()  # a host that does not answer can still be switched off
        return {}

    async def _logs(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        await self._connection.first_attempt()
        return await self._connection.ask("logs")

    async def _remove(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Leave nothing on the host. What is left all the same is in the answer."""
        await self._connection.first_attempt()
        said = await self._connection.ask("remove")
        session = self._connection.session
        if session is None:
            raise self._connection.why
        try:
            return {"ended": said["ended"], "left": await session.sweep()}
        except (Lost, Unfit) as error:
            raise Unreachable(str(error)) from None

    # the listing

    async def _list(self, now: str) -> None:
        said = await self._connection.ask("list", now=now)
        session = self._connection.session
        ports = {_port(row["url"]) for row in said["listed"] if row["url"] and row["state"] in LIVE}
        self._there = {row["token"] for row in said["listed"] if row["state"] in LIVE}
        self._switch.saw(self._there, {row["token"] for row in said["listed"]})
        rows = [self._switch.with_the_hosts_end(row) for row in said["listed"]]
        for row in rows:
            if row["url"] and row["state"] in LIVE and session is not None:
                row["url"] = await self._led_to(session, row["token"], _port(row["url"]))
        if session is not None:
            session.forward_only(ports)
        self._rows, self._draw = rows, said["draw"]
        if self._live() - self._switch.ending:
            self._busy_at = time.monotonic()

    async def _led_to(self, session: Session, token: str, port: int) -> str | None:
        try:
            own = await session.forward(port, self._ports.get(token, 0))
        except Lost:
            return None
        if self._ports.get(token) != own:
            alive = {row["token"] for row in self._rows if row["state"] in LIVE} | {token}
            self._ports = {one: at for one, at in self._ports.items() if one in alive} | {token: own}
            with suppress(OSError):
                write_json(self._files.ports, {"ports": self._ports})
        return f"http://127.0.0.1:{own}"

    def _keep_seen(self) -> None:
        """Note what is known of it: for the next link, and for who asks how it stands without asking it."""
        up = self._connection.is_up and self._unlisted is None
        why = self._unlisted if self._connection.is_up and self._unlisted else self._connection.why
        seen = {
            "reached": up,
            "why": "" if up else str(why),
            "off": self._switch.is_off,
            "busy": not up and isinstance(why, Throttled),
            "hello": self._connection.hello,
            "draw": self._draw,
            "listed": self._rows,
        }
        if seen != self._seen:
            self._seen = seen
            with suppress(OSError):  # the next one is as good, and this one is remembered
                write_json(self._files.seen, seen)

    def _live(self) -> set[str]:
        return {row["token"] for row in self._rows if row["state"] in LIVE}

    # the power

    def _can_start(self) -> bool:
        """Whether it is off, as far as we know, and there is a way to switch it on."""
        if not self._switch.starts or self._starting is not None or isinstance(self._connection.why, Misconfigured):
            return False
        if self._switch.is_off:
            return True
        away = not self._connection.is_up and isinstance(self._connection.why, Unreachable)
        return away and not self._live()

    def _start(self) -> None:
        """Raises Throttled: it will be on, or the next launch is told why not."""
        self._starting = asyncio.create_task(self._switch_on())
        raise Throttled(f"{self._host.name} is being switched on")

    async def _switch_on(self) -> None:
        self._connection.why = Throttled(f"{self._host.name} is being switched on")
        why = await self._switch.turn_on()
        if why is not None:
            self._connection.because(NoCapacity(f"{self._host.name} was not switched on: {why}"))
            self._starting = None
            return
        self._busy_at = time.monotonic()
        self._connection.hurry(True)
        ends = time.monotonic() + BOOT_SECONDS
        while not self._connection.is_up and time.monotonic() < ends:
            if isinstance(self._connection.why, Unreachable):
                self._connection.why = Throttled(f"{self._host.name} boots: {self._connection.why}")
            await asyncio.sleep(0.1)
        self._connection.hurry(False)
        self._starting = None

    async def _switch_off(self) -> None:
        if await self._switch.turn_off(self._rows):
            self._rows = [self._switch.with_the_hosts_end(row) for row in self._rows]
            self._there = set()
            self._connection.why = Unreachable(f"{self._host.name} is switched off")
            self._connection.close()
            self._keep_seen()
        self._stopping = None

    def _to_switch_off(self) -> bool:
        if self._stopping is not None or self._starting is not None or self._launching:
            return False
        if self._live() - self._switch.ending:
            return False
        spare = time.monotonic() - self._busy_at
        return self._switch.is_due(self._there, reached=self._connection.is_up, spare_seconds=spare)

    async def _look_after(self) -> None:
        """Switch off what is not needed; leave when nobody needs this."""
        while not self._leaving.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._wake.wait()
            self._wake.clear()
            if self._switch.ending and self._connection.is_up:  # whether or not anybody asks, it is to be off
                with suppress(ProviderError):
                    await self._list(datetime.now(UTC).isoformat())
            self._keep_seen()
            if self._to_switch_off():  # one that cannot be asked any more is switched off all the same
                self._stopping = asyncio.create_task(self._switch_off())
            idle = time.monotonic() - self._asked_at > IDLE_SECONDS
            if idle and not self._live() and self._switch.on_since is None and self._stopping is None:
                log.info("%s: nothing runs there, and nobody asks: leaving", self._host.name)
                return


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])
