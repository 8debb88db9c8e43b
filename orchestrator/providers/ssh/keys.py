"""Which host keys are trusted: a known_hosts file in HALVE_HOME. Nothing gets in there unseen."""

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from orchestrator.errors import Refused
from orchestrator.providers.ssh.host import Host, private_folder

CONNECT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class HostKey:
    """A host's public key: its line without the name, and its fingerprint as ssh prints it."""

    line: str
    fingerprint: str


def known_hosts(home: Path) -> Path:
    """The file of trusted keys, in OpenSSH's format."""
    return home.absolute() / "hosts" / "known_hosts"


def trusted(home: Path, host: Host) -> tuple[HostKey, int] | None:
    """The key that is trusted for this host, and its line number in the file; None: no key is."""
    with contextlib.suppress(FileNotFoundError):
        for number, line in enumerate(known_hosts(home).read_text(encoding="utf-8").splitlines(), 1):
            name, _, key = line.strip().partition(" ")
            if name == pattern(host):
                return _read(key), number
    return None


def offered(host: Host) -> HostKey:
    """The key that the host shows now. It is trusted by nobody yet. Raises Refused when it cannot be asked."""

    async def ask() -> asyncssh.SSHKey | None:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await asyncssh.get_server_host_key(host.address, host.port, config=None)

    try:
        key = asyncio.run(ask())
    except (OSError, asyncssh.Error) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Refused(
            f"{host.name} cannot be asked for its key: {why}; check address and port: ssh -p {host.port} {host.address}"
        ) from None
    if key is None:
        raise Refused(f"{host.name} shows no key")
    return _read(key.export_public_key("openssh").decode().strip())


def trust(home: Path, host: Host, key: HostKey) -> None:
    """Trust this key for this host, in place of any other one. Raises OSError."""
    forget(home, host)
    path = known_hosts(home)
    private_folder(path.parent)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{pattern(host)} {' '.join(key.line.split()[:2])}\n")


def forget(home: Path, host: Host) -> None:
    """Trust no key for this host any more. Raises OSError."""
    path = known_hosts(home)
    with contextlib.suppress(FileNotFoundError):
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.strip().partition(" ")[0] != pattern(host)]
        if kept != lines:
            draft = path.with_name(".known_hosts.draft")
            draft.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            draft.replace(path)


def refusal(home: Path, host: Host) -> str:
    """Why its key is not accepted, and the remedy, in a line."""
    found = trusted(home, host)
    if found is None:
        return f"nobody has confirmed the key of {host.name}; look at it with: halve hosts trust {host.name}"
    return (
        f"the key of {host.name} is not the one in {known_hosts(home)}:{found[1]}: somebody else may be answering; "
        f"if it was set up anew: halve hosts trust {host.name}"
    )


def pattern(host: Host) -> str:
    """The host's name in a known_hosts file."""
    return host.address if host.port == 22 else f"[{host.address}]:{host.port}"


def _read(line: str) -> HostKey:
    try:
        fingerprint = asyncssh.import_public_key(line).get_fingerprint()
    except (asyncssh.KeyImportError, ValueError):
        fingerprint = "unreadable"
    return HostKey(line, fingerprint)
