"""A link: the process that holds the connection to one host.

    python -m orchestrator.providers.ssh.process HOME NAME < {"word": ..., "settings": ...}

It connects, and connects again; installs what is missing; answers the provider in time whatever the host does; forwards
a port to each replica; and switches the host on and off where there are commands for it. It lives for as long as the
host has replicas of ours or somebody asks, and is found by its lock, pid and birth.
"""

import asyncio
import fcntl
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web

from orchestrator.files import read_json, write_json
from orchestrator.processes import birth
from orchestrator.providers import Misconfigured, NoCapacity, ProviderError, Throttled, Unreachable
from orchestrator.providers.ssh import power, wheel
from orchestrator.providers.ssh.host import Files, Host, recall
from orchestrator.providers.ssh.link import WORD_HEADER, LinkProcess
from orchestrator.providers.ssh.session import Lost, Session, Unfit, Untrusted, connect

log = logging.getLogger("halve.link")

#: between attempts to connect
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
#: what is first asked waits for the first connection this long
PATIENT_SECONDS = 5.0
#: nobody asked, and nothing runs there: it ends
IDLE_SECONDS = 30.0
#: a host that was switched on and has nothing to do is switched off
SPARE_SECONDS = 60.0
#: it may take this long from `start` to an answer
BOOT_SECONDS = 600.0
#: `stop` is tried again after a failure, at the latest after the second
STOP_PAUSE, LONGEST_STOP_PAUSE = 5.0, 300.0
LIVE = ("starting", "running")

Row = dict[str, Any]


class LinkServer:
    """What one host is to this machine."""

    def __init__(self, home: Path, host: Host) -> None:
        self._home, self._host, self._files = home, host, Files.of(home, host.name)
        self._session: Session | None = None
        self._why: ProviderError = Throttled(f"{host.name}: connecting")
        seen = read_json(self._files.seen) or {}
        self._hello: Mapping[str, Any] | None = seen.get("hello")
        self._rows: list[Row] = seen.get("listed", [])
        self._there = self._live()  # what runs there, whatever is listed of it
        self._ports: dict[str, int] = (read_json(self._files.ports) or {}).get("ports", {})
        self._power = power.read(self._files.power)
        self._tried = asyncio.Event()  # an attempt to connect has come to an end
        self._connect_now = asyncio.Event()
        self._wake = asyncio.Event()
        self._leaving = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._launching = 0  # calls under way
        self._asked_at = self._busy_at = time.monotonic()
        self._stop_failures, self._stop_after, self._not_off = 0, 0.0, ""

    async def run(self) -> None:
        """Until nothing needs it, or a signal ends it."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._leave)
        tasks = [asyncio.create_task(do()) for do in (self._connect_forever, self._look_after)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, self._stopping, self._starting):
            if task is not None:
                task.cancel()
        if self._session is not None:
            self._session.close()
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
        await self._first_attempt()
        if self._session is not None:
            with suppress(ProviderError):
                await self._list(asked["now"])
        return {
            "reached": self._session is not None,
            "why": "" if self._session is not None else str(self._why),
            "can_start": self._can_start(),
            "off": self._power.off_since is not None,
            "busy": isinstance(self._why, Throttled),
            "hello": self._hello,
            "listed": self._rows,
        }

    async def _launch(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        self._busy_at = time.monotonic()
        if asked["token"] in self._power.ended:
            return {"provider_id": asked["token"]}  # it ran, and nobody is switched on for it again
        await self._first_attempt()
        if self._stopping is not None:
            raise Throttled(f"{self._host.name} is being switched off")
        if self._session is None and self._can_start():
            self._start()
        now = asked["now"]
        if self._power.on_since is not None and not self._live():  # it has cost since it had nothing else to do
            ends = [row["ended_at"] for row in self._rows if row["ended_at"]]
            now = min(now, max((self._power.on_since, *ends), key=datetime.fromisoformat), key=datetime.fromisoformat)
        self._launching += 1
        try:
            said = await self._ask("launch", now=now, token=asked["token"], payload=asked["payload"])
            self._there.add(asked["token"])
        finally:
            self._launching -= 1
        if self._host.stop and self._power.on_since is None:
            self._power.on_since = asked["now"]
            self._keep_power()
        return {"provider_id": said["provider_id"]}

    async def _terminate(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        await self._first_attempt()
        token = asked["provider_id"]
        live = token in self._live()
        if self._host.stop and self._power.off_since is None and live and token not in self._power.ending:
            self._power.ending.append(token)
            self._keep_power()
        if self._power.off_since is not None:
            return {}
        try:
            await self._ask("terminate", now=asked["now"], provider_id=token)
        finally:
            self._wake.set()  # a host that does not answer can still be switched off
        return {}

    async def _logs(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        await self._first_attempt()
        return await self._ask("logs")

    async def _remove(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """Leave nothing on the host. What is left all the same is in the answer."""
        await self._first_attempt()
        said = await self._ask("remove")
        assert self._session is not None
        try:
            return {"ended": said["ended"], "left": await self._session.sweep()}
        except (Lost, Unfit) as error:
            raise Unreachable(str(error)) from None

    async def _ask(self, do: str, **what: Any) -> Mapping[str, Any]:
        """The agent's answer. Raises what it names, or why there is no agent."""
        session = self._session
        if session is None:
            raise self._why
        try:
            said = await session.ask(do, **what)
        except Lost as lost:
            raise Unreachable(str(lost)) from None
        if "error" in said:
            kinds = {"NoCapacity": NoCapacity, "Misconfigured": Misconfigured, "Throttled": Throttled}
            raise kinds.get(said["error"], Unreachable)(f"{self._host.name}: {said['words']}")
        return said

    async def _first_attempt(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENT_SECONDS):
                await self._tried.wait()

    # the listing

    async def _list(self, now: str) -> None:
        said = await self._ask("list", now=now)
        session = self._session
        ports = {_port(row["url"]) for row in said["listed"] if row["url"] and row["state"] in LIVE}
        self._there = {row["token"] for row in said["listed"] if row["state"] in LIVE}
        if self._there - set(self._power.ending) and set(self._power.ending) - self._there:
            self._power.ending = [token for token in self._power.ending if token in self._there]
            self._keep_power()  # others go on there: whoever is over has ended its own cost
        rows = [self._with_the_hosts_end(row) for row in said["listed"]]
        for row in rows:
            if row["url"] and row["state"] in LIVE and session is not None:
                row["url"] = await self._led_to(session, row["token"], _port(row["url"]))
        if session is not None:
            session.forward_only(ports)
        self._keep_rows(rows)
        live = self._live()
        if live - set(self._power.ending):
            self._busy_at = time.monotonic()
        tokens = {row["token"] for row in rows}
        if self._power.ended.keys() - tokens:
            self._power.ended = {token: at for token, at in self._power.ended.items() if token in tokens}
            self._keep_power()

    def _with_the_hosts_end(self, row: Row) -> Row:
        """A replica that was to be ended has not ended its cost before its host is off."""
        token = row["token"]
        if token in self._power.ended:
            return {**row, "state": "gone", "ended_at": self._power.ended[token], "url": None}
        if row["state"] == "gone" and token in self._power.ending:
            detail = f"its host was not switched off: {self._not_off}" if self._not_off else "its host is switched off"
            return {**row, "state": "running", "ended_at": None, "url": None, "detail": detail}
        return row

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

    def _keep_rows(self, rows: list[Row]) -> None:
        if rows != self._rows:
            self._rows = rows
            self._keep_seen()

    def _keep_seen(self) -> None:
        with suppress(OSError):  # the next listing is as good, and this one is remembered
            write_json(self._files.seen, {"hello": self._hello, "listed": self._rows})

    def _keep_power(self) -> None:
        try:
            power.keep(self._files.power, self._power)
        except OSError as error:  # it is known as long as this process lives
            log.error("%s: %s", error.filename, error.strerror)

    def _live(self) -> set[str]:
        return {row["token"] for row in self._rows if row["state"] in LIVE}

    # the connection

    async def _connect_forever(self) -> None:
        pause = FIRST_PAUSE
        while True:
            if self._power.off_since is None:
                await self._connect_once()
            self._tried.set()
            if self._session is not None:
                pause = FIRST_PAUSE
                await self._session.closed.wait()
                log.warning("%s: the connection was lost", self._host.name)
                self._session = None
                self._why = Unreachable(f"{self._host.name}: the connection was lost")
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._connect_now.wait()
            self._connect_now.clear()
            pause = FIRST_PAUSE if self._starting is not None else min(2 * pause, LONGEST_PAUSE)

    async def _connect_once(self) -> None:
        session = None
        try:
            session = await connect(self._host, self._home)
            self._why = Throttled(f"{self._host.name}: being installed")
            package = await asyncio.to_thread(wheel.packed, self._home.absolute() / "hosts" / "wheels")
            hello = await session.prepare(package)
            ahead = datetime.fromisoformat(hello["clock"]) - datetime.now(UTC)
            self._hello = {**hello, "clock_ahead_seconds": round(ahead.total_seconds(), 1)}
            self._keep_seen()
            self._session = session
            log.info("%s: connected: %s", self._host.name, json.dumps(self._hello))
            return
        except Untrusted as error:
            self._because(Misconfigured(str(error)))
        except Unfit as error:
            self._because(NoCapacity(str(error)))
        except Lost as error:
            self._because(Unreachable(str(error)))
        except OSError as error:
            self._because(NoCapacity(f"{error.filename}: {error.strerror}"))
        if session is not None:
            session.close()

    def _because(self, why: ProviderError) -> None:
        if str(why) != str(self._why):  # what lasts is said once
            log.warning("%s", why)
        self._why = why

    # the power

    def _can_start(self) -> bool:
        """Whether it is off, as far as we know, and there is a way to switch it on."""
        if not self._host.start or self._starting is not None or isinstance(self._why, Misconfigured):
            return False
        if self._power.off_since is not None:
            return True
        return self._session is None and not self._live() and isinstance(self._why, Unreachable)

    def _start(self) -> None:
        """Raises Throttled: it will be on, or the next launch is told why not."""
        self._starting = asyncio.create_task(self._switch_on())
        raise Throttled(f"{self._host.name} is being switched on")

    async def _switch_on(self) -> None:
        self._why = Throttled(f"{self._host.name} is being switched on")
        began = datetime.now(UTC)
        why = await power.command(self._host.start, self._host.command_seconds, self._files.commands_log, began)
        if why is not None:
            self._because(NoCapacity(f"{self._host.name} was not switched on: {why}"))
            self._power.off_since = self._power.off_since or began.isoformat()
            self._starting = None
            return
        self._busy_at = time.monotonic()
        self._power.off_since = None
        self._power.on_since = began.isoformat() if self._host.stop else None
        self._keep_power()
        log.info("%s: switched on", self._host.name)
        self._connect_now.set()
        ends = time.monotonic() + BOOT_SECONDS
        while self._session is None and time.monotonic() < ends:
            if isinstance(self._why, Unreachable):
                self._why = Throttled(f"{self._host.name} boots: {self._why}")
            await asyncio.sleep(0.1)
        self._starting = None

    async def _switch_off(self) -> None:
        began = datetime.now(UTC)
        why = await power.command(self._host.stop, self._host.command_seconds, self._files.commands_log, began)
        if why is not None:
            self._stop_failures += 1
            pause = min(STOP_PAUSE * (1 << min(self._stop_failures - 1, 10)), LONGEST_STOP_PAUSE)
            self._stop_after = time.monotonic() + pause
            log.error("%s was not switched off, and goes on costing: %s", self._host.name, why)
            self._not_off = why
        else:
            at = datetime.now(UTC).isoformat()
            over = self._live() or self._last_ended()
            self._power.ended |= dict.fromkeys(over, at)
            self._power.on_since, self._power.off_since, self._power.ending = None, at, []
            self._keep_power()
            self._keep_rows([self._with_the_hosts_end(row) for row in self._rows])
            self._there = set()
            self._stop_failures, self._stop_after, self._not_off = 0, 0.0, ""
            self._why = Unreachable(f"{self._host.name} is switched off")
            log.info("%s: switched off", self._host.name)
            if self._session is not None:
                self._session.close()
                self._session = None
        self._stopping = None

    def _last_ended(self) -> set[str]:
        """What ended by itself and left the host on for nobody: it has cost until now."""
        if self._power.on_since is None:
            return set()
        since = datetime.fromisoformat(self._power.on_since)
        ends = {row["token"]: datetime.fromisoformat(row["ended_at"]) for row in self._rows if row["ended_at"]}
        last = max(ends, key=lambda token: ends[token], default=None)
        return set() if last is None or ends[last] < since else {last}

    def _to_switch_off(self) -> bool:
        """Whether everything that ran there is over or was to be ended, or nothing has run for long."""
        if not self._host.stop or self._stopping is not None or self._starting is not None:
            return False
        if self._power.off_since is not None or time.monotonic() < self._stop_after:
            return False
        if self._launching or (self._live() | self._there) - set(self._power.ending):
            return False
        if self._power.ending:
            return self._session is None or not self._there
        spare = time.monotonic() - self._busy_at
        return self._power.on_since is not None and spare > (SPARE_SECONDS if self._session else BOOT_SECONDS)

    async def _look_after(self) -> None:
        """Switch off what is not needed; leave when nobody needs this."""
        while not self._leaving.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._wake.wait()
            self._wake.clear()
            if self._power.ending and self._session is not None:  # whether or not anybody asks, it is to be off
                with suppress(ProviderError):
                    await self._list(datetime.now(UTC).isoformat())
            if self._to_switch_off():  # one that cannot be asked any more is switched off all the same
                self._stopping = asyncio.create_task(self._switch_off())
            idle = time.monotonic() - self._asked_at > IDLE_SECONDS
            if idle and not self._live() and self._power.on_since is None and self._stopping is None:
                log.info("%s: nothing runs there, and nobody asks: leaving", self._host.name)
                return


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


async def serve(home: Path, host: Host, word: str, settings: str) -> None:
    """Answer on a free port of this machine to whoever knows the word, until the link leaves."""
    link = LinkServer(home, host)

    async def answer(request: web.Request) -> web.Response:
        if request.headers.get(WORD_HEADER) != word:
            return web.json_response({"error": "Misconfigured", "words": "wrong word"}, status=403)
        try:
            return web.json_response(await link.answer(request.match_info["do"], await request.json()))
        except ProviderError as error:
            return web.json_response({"error": type(error).__name__, "words": str(error)}, status=409)
        except OSError as error:
            words = f"{error.filename}: {error.strerror}"
            return web.json_response({"error": "NoCapacity", "words": words}, status=409)

    application = web.Application()
    application.router.add_post("/{do}", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    own = LinkProcess(pid=os.getpid(), birth=birth(os.getpid()) or "", port=port, word=word, settings=settings)
    write_json(Files.of(home, host.name).process, own.to_json())
    Files.of(home, host.name).process.chmod(0o600)
    try:
        await link.run()
    finally:
        Files.of(home, host.name).process.unlink(missing_ok=True)
        await runner.cleanup()


def main() -> None:
    home, name = Path(sys.argv[1]), sys.argv[2]
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("asyncssh").setLevel(logging.ERROR)
    told = json.load(sys.stdin)
    host = recall(home, name)
    if host is None:
        sys.exit(f"{Files.of(home, name).host} is gone")
    with Files.of(home, name).lock.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another process holds {lock.name}")
        asyncio.run(serve(home, host, told["word"], told["settings"]))


if __name__ == "__main__":
    main()
