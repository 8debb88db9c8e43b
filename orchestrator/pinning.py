"""Replicas far away are known by the very certificate that each made for itself, and they know ours.

No authority vouches for anybody here: each end trusts one certificate of the other's, whatever name or dates it bears,
so TLS itself is challenge and response in both directions. How a certificate is learnt, over a channel that only
the two ends can use, is its provider's affair (providers/aws/contact.py). From then on it is checked whenever somebody
connects: a probe, a lease, the door. Plain http:// stays for loopback and for ssh's links.

    HALVE_HOME/pins/controller.pem    our key and certificate, a function of the installation key
                    MACHINE.pem       the certificate of a machine, for as long as it lives
                    at/HOST_PORT.pem  the same, by each address where it listens
"""

import hashlib
import os
import secrets
import ssl
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import httpx

#: the purpose of OpenSSL's flag of this value: dates are not looked at (X509_V_FLAG_NO_CHECK_TIME, x509_vfy.h). Python
#: has no name for it. A pin is valid for as long as we keep it, and machines' clocks are not ours to trust.
NO_CHECK_TIME = 0x200000
SINCE, UNTIL = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)


class Unpinned(ConnectionError):
    """Nothing is known of who answers there, so nobody is to be spoken to."""


@lru_cache(maxsize=8)
def own(key: bytes) -> tuple[str, str]:
    """Who we are to our machines: a private key and its certificate (PEM), the same for an installation's key.

    The certificate is no secret, and travels in user data; whoever has the private key may talk to our machines.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"halve controller\0" + key).digest())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "halve controller")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)  # all of it fixed, and Ed25519 signs without chance: user data has to stay the same
        .not_valid_before(SINCE)
        .not_valid_after(UNTIL)
        .sign(private, None)
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    secret = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    return secret.decode(), certificate.public_bytes(pem).decode()


class Pins:
    """Those of one HALVE_HOME. Safe to use from several threads and processes."""

    def __init__(self, home: Path) -> None:
        self._folder = home.absolute() / "pins"
        self._contexts: dict[Path, tuple[tuple[int, int], ssl.SSLContext]] = {}

    def introduce(self, key: bytes) -> None:
        """Keep who we are where whoever connects finds it. Raises OSError."""
        content = "".join(own(key))
        path = self._folder / "controller.pem"
        if not path.exists() or path.read_text(encoding="ascii") != content:
            _write(path, content)

    def of(self, machine: str) -> str | None:
        """The certificate (PEM) that a machine has proved to be its own; None before that."""
        try:
            return self._machine(machine).read_text(encoding="ascii")
        except FileNotFoundError:
            return None

    def pin(self, machine: str, urls: Iterable[str], certificate: str) -> None:
        """From now on a machine is known by this certificate (PEM), and answers at these addresses. Raises OSError."""
        for path in (self._machine(machine), *(self._at(url) for url in urls)):
            if not path.exists() or path.read_text(encoding="ascii") != certificate:
                _write(path, certificate)

    def forget(self, machine: str) -> None:
        """A machine is over, and so is what it was known by; its address may be another's by now."""
        certificate = self.of(machine)
        if certificate is None:
            return
        for path in (self._folder / "at").glob("*.pem"):
            if path.read_text(encoding="ascii") == certificate:
                path.unlink(missing_ok=True)
        self._machine(machine).unlink(missing_ok=True)

    def machines(self) -> tuple[str, ...]:
        """Those that are known."""
        return tuple(path.stem for path in self._folder.glob("*.pem") if path.name != "controller.pem")

    def context(self, url: str) -> ssl.SSLContext:
        """For connections to an address: to nobody but whom was pinned there. Raises Unpinned."""
        path = self._at(url)
        try:
            found = path.stat()
            mark = (found.st_ino, found.st_mtime_ns)
            kept = self._contexts.get(path)
            if kept is None or kept[0] != mark:
                context = self.stranger()
                context.verify_mode = ssl.CERT_REQUIRED
                context.verify_flags |= NO_CHECK_TIME
                context.load_verify_locations(path)
                kept = self._contexts[path] = mark, context
        except FileNotFoundError:
            self._contexts.pop(path, None)
            raise Unpinned(f"{url} has not proved yet who it is") from None
        return kept[1]

    def stranger(self) -> ssl.SSLContext:
        """For the first contact: we say who we are, and look at who answers before anything else is said.

        Raises Unpinned when nobody has introduced us.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # an address is nobody's name
        context.verify_mode = ssl.CERT_NONE
        try:
            context.load_cert_chain(self._folder / "controller.pem")
        except OSError as error:
            raise Unpinned(f"{self._folder / 'controller.pem'}: {error.strerror or error}") from None
        return context

    def transport(self) -> httpx.BaseTransport:
        """For httpx: https:// by these pins, http:// as ever."""
        return _Transport(self)

    def _machine(self, machine: str) -> Path:
        return self._folder / f"{_name(machine)}.pem"

    def _at(self, url: str) -> Path:
        address = urlsplit(url)
        return self._folder / "at" / f"{_name(f'{address.hostname}_{address.port}')}.pem"


class _Transport(httpx.BaseTransport):
    """Connections by the pins of the moment: another pin, other connections."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins
        self._plain = httpx.HTTPTransport(trust_env=False)
        self._pinned: dict[str, tuple[ssl.SSLContext, httpx.HTTPTransport]] = {}
        self._alone = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme != "https":
            return self._plain.handle_request(request)
        url = f"https://{request.url.netloc.decode('ascii')}"
        try:
            return self._of(url).handle_request(request)
        except Unpinned as error:
            raise httpx.ConnectError(str(error), request=request) from None

    def close(self) -> None:
        self._plain.close()
        for _, transport in self._pinned.values():
            transport.close()

    def _of(self, url: str) -> httpx.HTTPTransport:
        context = self._pins.context(url)
        with self._alone:
            kept = self._pinned.get(url)
            if kept is None or kept[0] is not context:
                self._drop_forgotten()
                kept = self._pinned[url] = context, httpx.HTTPTransport(verify=context, trust_env=False)
        return kept[1]

    def _drop_forgotten(self) -> None:
        """Machines come and go for years."""
        for url, (context, transport) in list(self._pinned.items()):
            try:
                now = self._pins.context(url)
            except Unpinned:
                now = None
            if now is not context:
                transport.close()
                del self._pinned[url]


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate as it travels, as `openssl x509 -fingerprint -sha256` says it, but for the colons."""
    return hashlib.sha256(der).hexdigest()


def _name(text: str) -> str:
    """As one file's name, whatever it is."""
    return "".join(one if one.isalnum() or one in "-_." else "_" for one in text).lstrip(".")


def _write(path: Path, content: str) -> None:
    """Whole or not at all, and for our eyes only."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
