"""What a person does about hosts: look at them, read their logs, let go of one."""

import re
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.errors import Refused
from orchestrator.providers import ProviderError
from orchestrator.providers.ssh.host import Files, Host, known, recall
from orchestrator.providers.ssh.link import Link
from orchestrator.providers.ssh.standing import Standing, read

#: to install everything on a host that has nothing
INSTALL_SECONDS = 1200.0
REMOVE_SECONDS = 60.0
POLL_SECONDS = 0.3
#: a host's clock that is this far off is worth a word
SKEW_SECONDS = 60.0


def standings(home: Path, now: datetime) -> list[Standing]:
    """Every host that this HALVE_HOME knows, by name. Those whose link is not up are connected to first."""
    return [standing(home, host.name, now) for host in known(home)]


def standing(home: Path, name: str, now: datetime) -> Standing:
    """One host."""
    link = Link(home, name)
    try:
        said: Mapping[str, Any] = link.ask("look", now=now.isoformat())
    except ProviderError as error:
        said = {"reached": False, "busy": False, "off": False, "why": str(error), "listed": []}
    finally:
        link.close()
    return read(name, said)


def made_ready(home: Path, name: str, now: Callable[[], datetime], say: Callable[[str], None]) -> Standing:
    """Wait until it is connected and installed. Raises Refused when that comes to nothing."""
    deadline = time.monotonic() + INSTALL_SECONDS
    said = ""
    while time.monotonic() < deadline:
        found = standing(home, name, now())
        if found.state == "ready":
            return found
        if found.state != "busy":
            raise Refused(found.why)
        if found.why != said:
            say(found.why)
            said = found.why
        time.sleep(POLL_SECONDS)
    raise Refused(f"{name} is not ready after {INSTALL_SECONDS:.0f} s: {said}")


def logs(home: Path, name: str) -> Mapping[str, str]:
    """The last lines of each replica there, by token, the youngest last. Raises Refused when it cannot be asked."""
    found = _known(home, name)
    link = Link(home, found.name)
    try:
        said: Mapping[str, str] = link.ask("logs")["logs"]
        return said
    except ProviderError as error:
        raise Refused(str(error)) from None
    finally:
        link.close()


def remove(home: Path, name: str, *, asking: bool = True) -> str:
    """End what runs there, leave nothing there, and forget the host and its key; what was done, in words.

    `asking` False: it is gone for good, nothing is asked of it. Raises Refused, with nothing forgotten, when it does
    not answer.
    """
    from orchestrator.providers.ssh import keys

    host = _known(home, name)
    link = Link(home, host.name)
    words = "it was not asked"
    try:
        if asking:
            said = link.ask("remove", seconds=REMOVE_SECONDS)
            ended = said["ended"]
            words = f"{ended} replica folder{'s' * (ended != 1)} removed"
            words += ", another installation's are left" if said["left"] else ", nothing is left there"
        link.end()
    except ProviderError as error:
        raise Refused(f"{error}; if it is gone for good: halve hosts remove {host.name} --forget") from None
    finally:
        link.close()
    keys.forget(home, host)
    shutil.rmtree(Files.of(home, host.name).folder)
    return words


def parsed(name: str) -> tuple[str, int]:
    """The address and port of a name such as box1, box1:2222 or [::1]:2222. Raises Refused."""
    match = re.fullmatch(r"(?:\[(?P<six>[^\]\s]+)\]|(?P<plain>[^:\[\]\s]+))(?::(?P<port>[0-9]{1,5}))?", name)
    if match is None and re.fullmatch(r"[0-9a-fA-F:.]+", name):  # an IPv6 address as it is
        return name, 22
    if match is None or not 0 < int(match["port"] or 22) < 65536:
        raise Refused(f"{name} is no host; want an address, or ADDRESS:PORT")
    return match["six"] or match["plain"], int(match["port"] or 22)


def _known(home: Path, name: str) -> Host:
    host = recall(home, name)
    if host is None:
        others = ", ".join(one.name for one in known(home)) or "none yet"
        raise Refused(f"no host is called {name}; there are: {others}")
    return host
