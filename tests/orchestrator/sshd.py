"""Real ssh servers on 127.0.0.1, each a host with a home of its own, run by whoever runs the tests."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from orchestrator.clock import Clock, SystemClock
from orchestrator.processes import birth
from orchestrator.providers import Unreachable
from orchestrator.providers.ssh.host import Host
from orchestrator.providers.ssh.provider import Offered, SshProvider
from policies.snapshot import Offer, Purchase
from tests.orchestrator.ports import free_port
from tests.orchestrator.tiny import until

REPOSITORY = Path(__file__).resolve().parents[2]
#: what infra/hosts/authorized_keys.example allows our key, and no more
RESTRICTIONS = next(
    line.partition(" ssh-")[0]
    for line in (REPOSITORY / "infra" / "hosts" / "authorized_keys.example").read_text().splitlines()
    if line and not line.startswith("#")
)
SERVER = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/sbin")


class Server:
    """One host: its sshd, its keys, and the home of the user that is let in."""

    def __init__(self, folder: Path, home: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.home = home or folder / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.user_key = folder / "user_key"
        make_key(self.user_key)
        self.new_host_key()

    @property
    def far(self) -> Path:
        """Everything of ours on it."""
        return self.home / ".halve" / "remote"

    def host(self, **options: object) -> Host:
        said = {"address": "127.0.0.1", "port": self.port, "key": str(self.user_key), "python": sys.executable}
        return Host(**{**said, "replica": "tests.orchestrator.tiny_there:command", **options})  # type: ignore[arg-type]

    def new_host_key(self) -> None:
        """As after a new installation of the machine."""
        for path in self.folder.glob("host_key*"):
            path.unlink()
        make_key(self.folder / "host_key")

    def start(self) -> "Server":
        """Up and listening. Nothing but this user's key is let in."""
        assert SERVER is not None
        packages = self.folder / "packages"
        packages.mkdir(exist_ok=True)
        if not (packages / "tests").exists():
            (packages / "tests").symlink_to(REPOSITORY / "tests")
        restricted = f"{RESTRICTIONS} {self.user_key.with_suffix('.pub').read_text()}"
        (self.folder / "authorized_keys").write_text(restricted)
        (self.folder / "authorized_keys").chmod(0o600)
        said = {"HOME": str(self.home), "PYTHONPATH": str(packages), **self._environment}
        lines = {
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": str(self.folder / "host_key"),
            "AuthorizedKeysFile": str(self.folder / "authorized_keys"),
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "yes",
            "AllowTcpForwarding": "local",
            "SetEnv": " ".join(f"{name}={value}" for name, value in said.items()),
        }
        config = self.folder / "sshd_config"
        config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # Debian's asks for it when root runs it
        with (self.folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen([SERVER, "-D", "-e", "-f", str(config)], stderr=log, cwd=self.folder)
        until(lambda: answers(self.port), why="sshd does not listen")
        return self

    def switches(self) -> dict[str, tuple[str, ...]]:
        """Commands that switch this machine on and off, as a vendor's tool would. They fail while `broken` exists."""
        script = self.folder / "switch"
        commands = {"start": (str(script), "on"), "stop": (str(script), "off")}
        if script.exists():
            return commands
        script.write_text(
            f"""#!/bin/sh
cd {self.folder}
echo "$1" >>switched
echo "using token=s3cr3t-of-the-vendor for $1"
test ! -e broken || {{ echo "out of order" >&2; exit 3; }}
case "$1" in
on) exec {SERVER} -f sshd_config -E sshd.log -o PidFile={self.folder}/pid ;;
off) test ! -e pid || kill -9 "$(cat pid)"; rm -f pid; : >off ;;
esac
"""
        )
        script.chmod(0o755)
        return commands

    def switched(self) -> list[str]:
        """What was asked of the switches, in order."""
        path = self.folder / "switched"
        return path.read_text().split() if path.exists() else []

    def kill(self) -> None:
        """kill -9 of the server and of every connection. What runs on the host goes on."""
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(60)
            self._process = None

    def freeze(self) -> None:
        """Neither the server nor a connection says anything more, as if the cable was cut."""
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def lose(self) -> None:
        """The machine is gone with all that runs on it."""
        self.kill()
        for process in self.running():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def running(self) -> list[psutil.Process]:
        """Whatever runs in this host's home, or out of it."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and str(self.far) in f"{process.cwd()} {' '.join(process.cmdline())}":
                    found.append(process)
        return found

    def close(self) -> None:
        self.kill()
        with suppress(OSError, ValueError):  # one that its switch has started
            os.kill(int((self.folder / "pid").read_text()), signal.SIGKILL)

        def none_left() -> bool:
            left = self.running()
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
            return not left

        until(none_left)

    def _family(self) -> Sequence[psutil.Process]:
        """The server and its connections; not what they have started on the host."""
        if self._process is None or birth(self._process.pid) is None:
            return ()
        server = psutil.Process(self._process.pid)
        found = [server]
        for child in server.children(recursive=True):
            with suppress(psutil.Error):
                if child.name().startswith("sshd"):
                    found.append(child)
        return found


@contextmanager
def server(folder: Path, **options: object) -> Iterator[Server]:
    """One, up, until the block ends. Skips where there is no sshd or no asyncssh."""
    pytest.importorskip("asyncssh", reason="needs asyncssh: pip install 'halve[ssh]'")
    if SERVER is None:
        pytest.skip("needs sshd: apt-get install openssh-server")
    folder.mkdir(parents=True, exist_ok=True)
    one = Server(folder, **options)  # type: ignore[arg-type]
    try:
        yield one.start()
    finally:
        one.close()


def offer_of(host: Host) -> Offer:
    return Offer(
        id=f"ssh/{host.name}/ocr",
        provider="ssh",
        zone=host.name,
        instance_type="host",
        gpu="tiny",
        purchase=Purchase.OWNED,
        price_per_hour_micros=1_800_000,
        currency="CNY",
        capacity=1,
    )


def ssh(home: Path, *hosts: Host, clock: Clock | None = None, digest: str = "") -> SshProvider:
    """The provider over hosts whose keys are trusted by now."""
    from orchestrator.providers.ssh import keys

    for host in hosts:
        if keys.trusted(home, host) is None:
            keys.trust(home, host, keys.offered(host))
    offered = [Offered(host=host, offer=lambda gpu, draw, host=host: offer_of(host)) for host in hosts]
    return SshProvider(home, clock or SystemClock(), offered, digest)


def reached(provider: SshProvider, hosts: int = 1) -> SshProvider:
    """Once so many of its hosts are connected."""

    def offers() -> int:
        with suppress(Unreachable):
            return len(provider.offers())
        return 0

    until(lambda: offers() >= hosts, why="the hosts are not reached")
    return provider


def make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
        connection.settimeout(1)
        return connection.recv(4) == b"SSH-"
    return False
