"""Who may look: a token in a file that only its owner can read, and the session that it opens."""

import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from orchestrator.errors import Refused

#: how long one login holds
SESSION = timedelta(hours=12)
TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class Access:
    """The token, and what is derived from it: a session is a date and its seal, so that nothing need be remembered, and
    a new token ends every session.
    """

    token: str

    def admits(self, said: str) -> bool:
        """Whether that is the token; in constant time."""
        return hmac.compare_digest(said.strip().encode(), self.token.encode())

    def session(self, now: datetime) -> str:
        """The value of the cookie of who has logged in."""
        ends = str(int((now + SESSION).timestamp()))
        return f"{ends}.{self._seal('session', ends)}"

    def holds(self, session: str, now: datetime) -> bool:
        """Whether a cookie is a session that has not ended."""
        ends, _, seal = session.partition(".")
        genuine = hmac.compare_digest(seal.encode(), self._seal("session", ends).encode())
        return genuine and now.timestamp() < int(ends)

    def form_seal(self, session: str) -> str:
        """What a form of this session carries. Another site, on another port of this machine too, cannot know it, and
        a cookie goes to every port.
        """
        return self._seal("form", session)

    def is_own_form(self, said: str, session: str) -> bool:
        return hmac.compare_digest(said.encode(), self.form_seal(session).encode())

    def _seal(self, what: str, of: str) -> str:
        return hmac.new(self.token.encode(), f"{what} {of}".encode(), hashlib.sha256).hexdigest()


def token_file(home: Path) -> Path:
    """Where the token lies."""
    return home / "dashboard.token"


def access(home: Path) -> Access:
    """By the token in HALVE_HOME, made when there is none. Raises Refused when others may read it, or it is short."""
    path = token_file(home)
    try:
        if not path.exists():
            _make(path)
        mode = stat.S_IMODE(path.stat().st_mode)
        token = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}; it keeps the dashboard's token") from None
    if mode & 0o077:
        raise Refused(f"{path}: others may read it (mode {mode:04o}): delete it, a new one is made, or chmod 600 it")
    if len(token) < 16:
        raise Refused(f"{path}: a token of less than 16 characters can be guessed: delete it, a new one is made")
    return Access(token)


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(secrets.token_urlsafe(TOKEN_BYTES) + "\n")
        os.link(draft, path)  # the first one wins, whole
    except FileExistsError:
        pass
    finally:
        draft.unlink()
