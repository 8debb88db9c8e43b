"""What is no ledger, and what is no whole one: said before anything is written to it."""

import sqlite3
from contextlib import closing
from pathlib import Path

from orchestrator.errors import Refused
from orchestrator.ledger import tables as t

#: what SQLite says of a file that something else wrote to
SIGNS = ("disk image is malformed", "malformed database schema", "file is not a database", "file is encrypted")
#: every ledger has them, and one of them nobody else's database
MARKS = {"alembic_version", t.installation.name}


def refuse(file: object, error: object) -> None:
    """Raise Refused, with the way back, where these words of SQLite's mean that a ledger is damaged."""
    if any(sign in str(error) for sign in SIGNS):
        raise Refused(
            f"ledger {file}: {error}; it is damaged: `halve ledger restore FILE` goes back to a copy"
        ) from None


def look(path: Path) -> None:
    """Raise Refused for a file that is not there, and for what is no ledger. Nothing of it is touched."""
    if path.is_dir():
        raise Refused(f"ledger {path}: a folder; name the ledger in it, such as {path / 'halve.db'}")
    if not path.is_file():
        raise Refused(f"ledger {path}: no such file; `halve simulate SPEC --month YYYY-MM --ledger {path}` writes one")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as found:
            tables = {name for (name,) in found.execute("SELECT name FROM sqlite_master")}
    except sqlite3.OperationalError:
        return  # it is there and cannot be read now: whoever opens it says why
    except sqlite3.DatabaseError as error:
        if "not a database" not in str(error):  # that one may never have been a ledger
            refuse(path, error)
        raise Refused(f"ledger {path}: {error}") from None
    if not tables >= MARKS:
        what = "a database of something else" if path.stat().st_size else "an empty file"
        raise Refused(f"ledger {path}: {what}, no ledger of halve; nothing was changed")
