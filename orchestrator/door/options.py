"""How a door is to be opened, and whether it could be: before one that is open is closed for it."""

import errno
import hashlib
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.errors import Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to open a door. Off loopback only with a token and a certificate."""

    home: Path
    deployment: str
    listen: str
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """What the secrets are read from; "" for none."""
        return tuple(
            "" if one is None else str(one.absolute()) for one in (self.token_file, self.tls_cert, self.tls_key)
        )

    def digest(self) -> str:
        """Which door this is: of the address and of what the files hold now. Raises Refused for one that cannot be
        read."""
        parts = [self.listen.encode()]
        for path in (self.token_file, self.tls_cert, self.tls_key):
            try:
                parts.append(b"" if path is None else path.read_bytes())
            except OSError as error:
                raise Refused(f"the door's file {path}: {error.strerror}") from None
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()

    def secrets(self) -> tuple[bytes | None, ssl.SSLContext | None]:
        """Token and certificate. Raises Refused for wrong ones, and when the address needs them and they are not."""
        host, _ = split_listen(self.listen)
        token, tls = _token(self.token_file), _tls(self.tls_cert, self.tls_key)
        if not _loopback(host) and (token is None or tls is None):
            raise Refused(
                f"{self.listen} can be reached from other machines: set door.token and door.tls in the spec "
                "(--token-file, --tls-cert, --tls-key), or listen on 127.0.0.1"
            )
        return token, tls


def split_listen(listen: str) -> tuple[str, int]:
    """HOST:PORT, the host of IPv6 in brackets. Raises Refused."""
    try:
        parsed = urlsplit(f"//{listen}")
        if parsed.hostname is not None and parsed.port is not None and parsed.netloc == listen:
            return parsed.hostname, parsed.port
    except ValueError:
        pass
    raise Refused(f"door.listen is HOST:PORT, like 127.0.0.1:7860, not {listen!r}")


def check_free(listen: str) -> None:
    """Raises Refused when nobody can listen there now."""
    host, port = split_listen(listen)
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise no_listener(error, host, port) from None


def no_listener(error: OSError, host: str, port: int) -> Refused:
    """Why nobody can listen there, in one line."""
    if error.errno == errno.EADDRINUSE:
        return Refused(f"port {port} on {host} is taken; free it or set door.listen in the spec")
    if error.errno in (errno.EACCES, errno.EPERM):
        return Refused(f"port {port} on {host} is not allowed to this user; set door.listen in the spec")
    return Refused(f"{host} is no address of this machine; set door.listen in the spec")


def _token(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise Refused(f"the door's token file {path}: {error.strerror}") from None
    if not token:
        raise Refused(f"the door's token file {path} is empty")
    return token


def _tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        raise Refused(f"the door's certificate {certificate}: {error.strerror or error}") from None
    return context


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
