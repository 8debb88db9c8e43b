"""The daemon's hold on a door: open it, tell it who serves, ask it how busy it is, close it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import TypeAdapter

from orchestrator.door.loads import Loads
from orchestrator.door.options import Options, check_free, split_listen
from orchestrator.door.process import DoorProcess, Files, held, read_note
from orchestrator.door.serving import ServingSet, to_json, write_whole
from orchestrator.errors import Refused

OPEN_SECONDS = 20.0  # for a new process to listen
ASK_SECONDS = 2.0
RENEW_SECONDS = 5.0  # for an open one to read its files again
CLOSE_SECONDS = 35.0  # a little longer than a door takes to leave in order
_LOADS = TypeAdapter(Loads)


class Door:
    """The door of one deployment, whichever process is it. Nothing here is remembered but the connection."""

    def __init__(self, home: Path, deployment: str) -> None:
        self._home = home.absolute()
        self._deployment = deployment
        self._files = Files.of(self._home, deployment)
        # Only this machine's own door is asked, at the address that the holder of the lock wrote; no secret is sent.
        self._http = httpx.Client(timeout=ASK_SECONDS, trust_env=False, verify=False)
        self._child: subprocess.Popen[bytes] | None = None

    def running(self) -> DoorProcess | None:
        """The process that holds the door's lock; None when nobody does, or when it does not listen yet."""
        if not held(self._files.lock):
            return None
        note = read_note(self._files.process)
        # A clock that was set since then moves the start times of all processes: then the door itself is asked.
        return note if note is not None and (note.lives or self._is(note)) else None

    def ensure(
        self, listen: str, *, token_file: Path | None = None, tls_cert: Path | None = None, tls_key: Path | None = None
    ) -> DoorProcess:
        """Adopt the door that is open, or open one as a process of its own, which outlives this one.

        A token or certificate that changed in its file is taken up by the door that is open, which drops no request for
        it. A door that listens elsewhere, or reads other files, is closed first, unless it can be seen before that the
        new one would not open. May block for a minute. Raises Refused with the door's own words.
        """
        options = Options(
            home=self._home,
            deployment=self._deployment,
            listen=listen,
            token_file=token_file,
            tls_cert=tls_cert,
            tls_key=tls_key,
        )
        process, settings = self.running(), options.digest()
        if process is not None and process.settings == settings:
            return process
        if process is not None:
            options.secrets()
            if (process.listen, process.files) == (listen, options.files):
                renewed = self._renewed(process, settings)
                if renewed is not None:
                    return renewed
            if split_listen(listen)[1] != urlsplit(process.url).port:  # the port that it has itself is freed with it
                check_free(listen)
            self.stop()
        command = [sys.executable, "-m", "orchestrator.door", "--home", str(self._home)]
        command += ["--deployment", self._deployment, "--listen", listen]
        for option, path in (("--token-file", token_file), ("--tls-cert", tls_cert), ("--tls-key", tls_key)):
            command += [option, str(path.absolute())] if path is not None else []
        return self._open(command)

    def publish(self, serving: ServingSet) -> bool:
        """Tell the door who serves; True when that was news. The door looks ten times a second, and before it answers
        `status`. Raises ValueError for a set that no door would take."""
        content = to_json(serving)
        try:
            if self._files.serving.read_bytes() == content:
                return False
        except FileNotFoundError:
            pass
        write_whole(self._files.serving, content)
        return True

    def status(self) -> dict[str, Any] | None:
        """What the door says of itself: pid, deployment, started_at, set_version, in_flight by replica, waiting, totals
        (`loads.Totals`).

        None when no door is open or it does not answer within 2 s.
        """
        answer = self._ask("/-/status")
        return None if answer is None else dict(answer.json())

    def loads(self, after: datetime | None = None) -> Loads | None:
        """Whole minutes that began after `after`, and the last ten seconds; None as for `status`."""
        answer = self._ask("/-/loads", **({} if after is None else {"after": after.isoformat()}))
        return None if answer is None else _LOADS.validate_json(answer.content)

    def in_flight(self, replica_id: str) -> int:
        """Requests that a replica still has from the door; after `publish` of a set without it, 0 stays 0.

        Without a door nothing is in flight. Raises Refused when there is one that does not answer.
        """
        said = self.status()
        if said is not None:
            return int(said["in_flight"].get(replica_id, 0))
        if held(self._files.lock):
            raise Refused(f"the door of {self._deployment} does not answer; see {self._files.log}")
        return 0

    def close(self) -> None:
        """Let go of the connection; the door's process goes on."""
        self._http.close()

    def stop(self) -> None:
        """Close the door: in-flight requests finish first, within 30 s. Done when the lock is free; closed is success.

        Raises Refused when the lock is held but nobody can be found who holds it.
        """
        process = self.running()
        if process is None:
            if held(self._files.lock):
                raise Refused(f"an unknown process holds {self._files.lock}; find it with: fuser {self._files.lock}")
            return
        for number, seconds in ((signal.SIGTERM, CLOSE_SECONDS), (signal.SIGKILL, 5.0)):
            if self.running() != process:  # gone, or no longer the one that is meant
                break
            os.kill(process.pid, number)
            if self._left(seconds):
                break
        if self._child is not None and self._child.pid == process.pid:
            self._child.wait()
            self._child = None

    def _open(self, command: list[str]) -> DoorProcess:
        self._files.log.parent.mkdir(parents=True, exist_ok=True)
        with self._files.log.open("ab") as output:
            said_before = output.tell()
            child = subprocess.Popen(
                command,
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._child = child
        deadline = time.monotonic() + OPEN_SECONDS
        while time.monotonic() < deadline:
            process = self.running()
            if process is not None:
                if process.pid != child.pid:  # somebody was quicker: ours must not wait for that one's lock
                    child.kill()
                    child.wait()
                    self._child = None
                return process
            if child.poll() is not None and not held(self._files.lock):
                break
            time.sleep(0.02)
        lines = self._files.log.read_bytes()[said_before:].decode(errors="replace").split("\n")
        said = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        if child.poll() is None:
            child.kill()
            child.wait()
            said = f"not listening after {OPEN_SECONDS:.0f} s: {said}"
        raise Refused(f"the door of {self._deployment} did not open: {said.removeprefix('halve: ')}")

    def _renewed(self, process: DoorProcess, settings: str) -> DoorProcess | None:
        """The same process, once it goes by what its files hold now; None for one that does not come to it."""
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGHUP)
        deadline = time.monotonic() + RENEW_SECONDS
        while time.monotonic() < deadline:
            now = self.running()
            if now is None or now.settings == settings:
                return now
            time.sleep(0.02)
        return None

    def _is(self, note: DoorProcess) -> bool:
        try:
            said = self._http.get(f"{note.url}/-/status").json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            return False
        return isinstance(said, dict) and (said.get("pid"), said.get("deployment")) == (note.pid, self._deployment)

    def _ask(self, path: str, **query: str) -> httpx.Response | None:
        process = self.running()
        if process is None:
            return None
        try:
            answer = self._http.get(process.url + path, params=query)
        except httpx.HTTPError:
            return None
        return answer if answer.status_code == 200 else None

    def _left(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while held(self._files.lock):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True
