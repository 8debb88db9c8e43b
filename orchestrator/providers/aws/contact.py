"""First contact with a machine: by which certificate it is known ever after.

A machine's user data can be read by whoever may look at the account, so no secret travels down in it, and its role may
write nowhere, so none comes back up. What there is instead are two public keys, and EC2 itself, which both ends trust
anyway (it could read their memory). It carries ours down in the user data, which only who may launch can write; and up,
on the machine's console, the SHA-256 of the machine's own, which only root of that very machine can write there and
GetConsoleOutput tells by the machine's id. So nobody is believed on first sight: whoever answers at the machine's
address has to show the certificate that the console names, and TLS makes him prove that he holds its key; the machine
in turn lets nobody in who does not hold ours. A machine in the middle holds neither key, a recording of either proof is
worth nothing in another handshake, and a console is of one machine for ever. The one secret between a machine and us,
the word that renews its lease (derived from the installation key and the launch token), is said only after that, over
the pinned connection.

Considered and left: a secret in S3 (whoever may read the bucket has it, and it would have to be written after the
launch); tags (the role may tag nothing); the role's signature under GetCallerIdentity, sent by us (as strong, and at
once on machines without Nitro too; but a role's credentials that are used outside AWS are what GuardDuty alarms about).
"""

import logging
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from orchestrator.pinning import Pins, Unpinned, fingerprint
from orchestrator.providers import Listed
from orchestrator.providers.aws import clients, refusals
from orchestrator.providers.aws.settings import ENGINE_PORT, WATCHDOG_PORT

log = logging.getLogger("halve.aws")

#: a console is read again so often while its machine starts
AGAIN_SECONDS = 15.0
CONNECT_SECONDS = 2.0
SAID = re.compile(r"^halve-certificate-sha256 ([0-9a-f]{64})\s*$", re.MULTILINE)
#: said of machines without Nitro, whose console is told some minutes late
NOT_LATEST = {"UnsupportedOperation", "Unsupported", "InvalidParameterCombination", "InvalidParameterValue"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a machine listens."""

    engine: str
    watchdog: str


def at_its_address(machine: Listed) -> Place:
    """As cloud-init has told it."""
    host = urlsplit(str(machine.url)).netloc.rpartition(":")[0]
    return Place(engine=f"https://{host}:{ENGINE_PORT}", watchdog=f"https://{host}:{WATCHDOG_PORT}")


def console(region: str, instance_id: str) -> str:
    """The last of what a machine has said on its console. Raises the SDK's errors."""
    ec2 = clients.client("ec2", region)
    try:
        said = ec2.get_console_output(InstanceId=instance_id, Latest=True)
    except ClientError as error:
        if refusals.code_of(error) not in NOT_LATEST:
            raise
        said = ec2.get_console_output(InstanceId=instance_id)
    return str(said.get("Output", ""))


@dataclass
class Contacts:
    """Who is known, and where. Safe to use from several threads and processes."""

    pins: Pins
    key: bytes
    place_of: Callable[[Listed], Place] = at_its_address
    again_seconds: float = AGAIN_SECONDS
    _known: dict[str, Place] = field(default_factory=dict)
    _asked: dict[str, float] = field(default_factory=dict)
    _said: set[tuple[str, str]] = field(default_factory=set)

    def place(self, machine: Listed) -> Place | None:
        """Where a machine listens; None for one that has not proved who it is. Asks nobody."""
        if machine.url is None:
            return None
        name, place = _name(machine), self.place_of(machine)
        if self._known.get(name) == place:
            return place
        certificate = self.pins.of(name)
        if certificate is None:
            return None
        return self._keep(name, place, certificate)

    def meet(self, machine: Listed) -> None:
        """Have a machine prove who it is, if it can by now; what keeps it from that is logged once."""
        name, place = _name(machine), self.place_of(machine)
        if time.monotonic() - self._asked.get(name, -self.again_seconds) < self.again_seconds:
            return
        self._asked[name] = time.monotonic()
        try:
            self.pins.introduce(self.key)
            shown = _shown(self.pins.stranger(), place.watchdog)
        except OSError:
            return  # it boots
        try:
            named = set(SAID.findall(console(machine.provider_id.partition("/")[0], name)))
        except (ClientError, BotoCoreError) as error:
            self._tell(name, f"its console cannot be read: {error}; see what is missing with: halve aws check")
            return
        if named == {fingerprint(shown)}:
            self._keep(name, place, ssl.DER_cert_to_PEM_cert(shown))
        elif named:
            self._tell(
                name,
                f"{place.watchdog} shows the certificate {fingerprint(shown)}, and its console names "
                f"{' and '.join(sorted(named))}. Somebody may be in between, or its key is new: nothing is sent "
                f"there; it ends with its lease, or at once by: aws ec2 terminate-instances --instance-ids {name}",
            )

    def forget(self, machine: Listed) -> None:
        """It is over."""
        name = _name(machine)
        if self._known.pop(name, None) or self.pins.of(name):
            self.pins.forget(name)
        self._asked.pop(name, None)

    def _keep(self, name: str, place: Place, certificate: str) -> Place | None:
        try:
            self.pins.pin(name, (place.engine, place.watchdog), certificate)
        except OSError as error:
            self._tell(name, f"its certificate cannot be kept: {error.strerror or error}; make room in HALVE_HOME")
            return None
        self._known[name] = place
        return place

    def _tell(self, name: str, what: str) -> None:
        if (name, what) not in self._said:
            self._said.add((name, what))
            log.warning("%s is not believed yet: %s", name, what)


def _name(machine: Listed) -> str:
    return machine.provider_id.rpartition("/")[2]


def _shown(context: ssl.SSLContext, url: str) -> bytes:
    """The certificate (DER) of whoever answers there, whose key he holds. Nothing is said to him. Raises OSError."""
    address = urlsplit(url)
    with (
        socket.create_connection((address.hostname or "", address.port or 443), timeout=CONNECT_SECONDS) as plain,
        context.wrap_socket(plain) as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    if shown is None:
        raise Unpinned(f"{url} shows no certificate")
    return shown
