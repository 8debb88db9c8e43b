"""One connection to a host: what is installed there, its agent, and the ports here that lead to its replicas.

Everything that goes wrong with it is a Lost; the link then makes another one.
"""

import asyncio
import json
import os
import shlex
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncssh

from orchestrator.providers.ssh import keys, wheel
from orchestrator.providers.ssh.host import Host, installation
from orchestrator.providers.ssh.keys import CONNECT_SECONDS

#: where everything of ours is on a host, under its user's home
FOLDER = ".halve/remote"
INSTALL_SECONDS = 1200.0
ANSWER_SECONDS = 8.0
#: a connection that says nothing for so long is cut: three of these
KEEPALIVE_SECONDS = 4.0
#: what any Python says of itself, be it too old for us
_PROBE = (
    "import sys, os, json; home = os.path.expanduser('~');"
    "print(json.dumps({'version': sys.version_info[:2], 'home': home}))"
)


class Lost(Exception):
    """There is no connection, or no more."""


class Untrusted(Exception):
    """The host's key is not the one that was confirmed, or none was."""


class Unfit(Exception):
    """The host answers, and cannot be made to work."""


class Session:
    """A live connection. Made by `connect`."""

    def __init__(self, connection: asyncssh.SSHClientConnection, host: Host, home: Path) -> None:
        self._connection = connection
        self._host = host
        self._home = home
        self._agent: asyncssh.SSHClientProcess[str] | None = None
        self._waiting: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._asked = 0
        self._reading: asyncio.Task[None] | None = None
        self._listeners: dict[int, asyncssh.SSHListener] = {}  # by the port there
        self.closed = asyncio.Event()

    async def prepare(self, package: Path) -> Mapping[str, Any]:
        """Install this very program there unless it is, start its agent, and say what the agent says of the host.

        Raises Lost or Unfit.
        """
        said = _answer_in(await self._output(f"{self._python} -c {shlex.quote(_PROBE)}"))
        if said is None:
            raise Unfit(f"{self._host.name}: {self._host.python} does not say what it is")
        if said["version"] < [3, 11]:
            found = ".".join(map(str, said["version"]))
            raise Unfit(f"{self._host.name}: {self._host.python} is Python {found}, wanted is 3.11 or newer")
        root = Path(said["home"]) / FOLDER
        environment = root / "envs" / wheel.digest()
        python = shlex.quote(str(environment / "bin" / "python"))
        if (await self._run(f"test -e {shlex.quote(str(environment / 'ready'))}")).returncode:
            await self._install(root, environment, package)
        own = shlex.quote(str(root / "homes" / await asyncio.to_thread(installation, self._home)))
        command = f"{python} -m orchestrator.providers.ssh.agent {own} {shlex.quote(self._host.replica)}"
        self._agent = await self._connection.create_process(command, encoding="utf-8", errors="replace")
        self._reading = asyncio.create_task(self._read(self._agent))
        return await self.ask("hello")

    async def ask(self, do: str, **what: Any) -> Mapping[str, Any]:
        """The agent's answer, which may be an error in words. Raises Lost when none comes in time."""
        if self._agent is None or self.closed.is_set():
            raise Lost(f"{self._host.name}: no connection")
        self._asked += 1
        number = self._asked
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._agent.stdin.write(json.dumps({"id": number, "do": do, **what}) + "\n")
            async with asyncio.timeout(ANSWER_SECONDS + (30.0 if do == "remove" else 0.0)):
                said: Mapping[str, Any] = await answer
                return said
        except TimeoutError:
            self.close()
            raise Lost(f"{self._host.name}: no answer within {ANSWER_SECONDS:.0f} s") from None
        except (OSError, asyncssh.Error) as error:
            raise Lost(f"{self._host.name}: {error}") from None
        finally:
            self._waiting.pop(number, None)

    async def forward(self, port: int, preferred: int = 0) -> int:
        """The port of this machine that leads to the host's own `port`; a preferred one where it is free."""
        if port not in self._listeners:
            for wanted in dict.fromkeys((preferred, 0)):
                try:
                    listener = await self._connection.forward_local_port("127.0.0.1", wanted, "127.0.0.1", port)
                except OSError:
                    continue
                except asyncssh.Error as error:
                    raise Lost(f"{self._host.name}: {error}") from None
                self._listeners[port] = listener
                break
            else:
                raise Lost(f"{self._host.name}: no port of this machine is free")
        return self._listeners[port].get_port()

    def forward_only(self, ports: set[int]) -> None:
        """Let go of the ports whose replicas are gone."""
        for port in self._listeners.keys() - ports:
            self._listeners.pop(port).close()

    async def sweep(self) -> str:
        """Remove what is ours on the host, once no other installation has anything there; what is left, in words."""
        script = (
            f"cd; rmdir {FOLDER}/homes 2>/dev/null; test -e {FOLDER}/homes || rm -rf {FOLDER}; "
            f"rmdir .halve 2>/dev/null; ls -A {FOLDER} {FOLDER}/homes 2>/dev/null; true"
        )
        return " ".join((await self._output(f"sh -c {shlex.quote(script)}")).split())

    def close(self) -> None:
        """Let go of the host. What runs there goes on."""
        self._connection.abort()
        self._end("the connection was closed")

    @property
    def _python(self) -> str:
        return shlex.quote(self._host.python)

    async def _install(self, root: Path, environment: Path, package: Path) -> None:
        there = root / "wheels" / package.parent.name / package.name
        target, folder = shlex.quote(str(there)), shlex.quote(str(there.parent))
        content = await asyncio.to_thread(package.read_bytes)
        script = f"mkdir -p {folder} && cat > {target}.draft && mv {target}.draft {target}"
        copied = await self._run(f"sh -c {shlex.quote(script)}", content)
        if copied.returncode:
            raise Unfit(f"{self._host.name}: {_last_line(copied)}")
        names = " ".join(shlex.quote(str(path)) for path in (environment, there))
        module = "orchestrator.providers.ssh.installing"
        done = await self._run(f"env PYTHONPATH={target} {self._python} -m {module} {names}", seconds=INSTALL_SECONDS)
        if done.returncode:
            raise Unfit(f"{self._host.name}: not installed: {_last_line(done)}")

    async def _output(self, command: str) -> str:
        done = await self._run(command)
        if done.returncode:
            raise Unfit(f"{self._host.name}: {_last_line(done)}")
        return _text(done.stdout)

    async def _run(
        self, command: str, given: bytes | None = None, seconds: float = 60.0
    ) -> asyncssh.SSHCompletedProcess:
        try:
            async with asyncio.timeout(seconds):
                given_or_nothing = {"stdin": asyncssh.DEVNULL} if given is None else {"input": given}
                return await self._connection.run(command, encoding=None, **given_or_nothing)
        except TimeoutError:
            raise Unfit(f"{self._host.name}: not done within {seconds:.0f} s: {command.partition(' ')[0]}") from None
        except (OSError, asyncssh.Error) as error:
            raise Lost(f"{self._host.name}: {error}") from None

    async def _read(self, agent: "asyncssh.SSHClientProcess[str]") -> None:
        why = "the connection was lost"
        try:
            async for line in agent.stdout:
                answer = _answer_in(line)
                if answer is None:
                    continue
                waiting = self._waiting.get(answer["id"])
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
            said = (await agent.stderr.read()).strip().splitlines()
            why = f"the agent ended: {said[-1]}" if said else why
        except (OSError, asyncssh.Error) as error:
            why = str(error)
        self._end(why)
        self._connection.abort()

    def _end(self, why: str) -> None:
        self.closed.set()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(asyncssh.ConnectionLost(why))


async def connect(host: Host, home: Path) -> Session:
    """A connection to a host whose key is trusted. Raises Lost, Untrusted or Unfit."""
    trusted = keys.trusted(home, host)
    if trusted is None:
        raise Untrusted(keys.refusal(home, host))
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await asyncssh.connect(
                host.address,
                host.port,
                config=None,
                username=host.user or (),
                client_keys=[host.key] if host.key else (),
                known_hosts=str(keys.known_hosts(home)),
                keepalive_interval=KEEPALIVE_SECONDS,
                keepalive_count_max=3,
            )
    except asyncssh.HostKeyNotVerifiable:
        raise Untrusted(keys.refusal(home, host)) from None
    except asyncssh.KeyImportError as error:
        raise Unfit(f"{host.name}: the key {host.key or 'of this user'} cannot be used: {error}") from None
    except (OSError, asyncssh.Error) as error:  # TimeoutError is an OSError
        raise Lost(f"{host.name}: {_words(host, error)}") from None
    return Session(connection, host, home)


def _words(host: Host, error: Exception) -> str:
    """Why there is no connection, and the remedy."""
    if isinstance(error, asyncssh.PermissionDenied):
        return f"{error.reason}; it must let {host.user or 'this user'} in by its key"
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS:.0f} s; is it on, and is {host.address} the right address?"
    if isinstance(error, socket.gaierror):
        return f"nobody knows the address {host.address}; correct it in ssh.hosts"
    if isinstance(error, ConnectionRefusedError):
        return f"refused: nothing listens on its port {host.port}; start sshd there, or correct the port in ssh.hosts"
    if isinstance(error, asyncssh.Error):
        return error.reason or type(error).__name__
    if isinstance(error, OSError) and error.errno:
        return f"{error.filename}: {os.strerror(error.errno)}" if error.filename else os.strerror(error.errno)
    return str(error)


def _answer_in(said: str) -> Mapping[str, Any] | None:
    """The JSON object that the last line is; a login may print something before it."""
    lines = said.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _last_line(done: asyncssh.SSHCompletedProcess) -> str:
    lines = (_text(done.stderr) or _text(done.stdout)).strip().splitlines()
    return lines[-1] if lines else f"it ended with {done.returncode}"


def _text(said: bytes | str | None) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else said or ""
