"""The way back from a copy of the ledger."""

from datetime import datetime, timedelta
from pathlib import Path

from orchestrator.errors import Refused
from orchestrator.holder import identity, is_dead
from orchestrator.ledger import backup

#: no daemon starts for so long; a restore that dies frees its lease by dying
HELD = timedelta(minutes=10)


def restore(home: Path, file: Path, now: datetime) -> Path | None:
    """Put a copy in the place of HALVE_HOME's ledger; return where the one of before is kept (None: there was none).

    Raises Refused, leaving everything as it is, while a daemon is alive, or when the copy is unsound, written by a
    newer halve, or another installation's.
    """
    present = backup.place(home)
    if not file.is_file():
        raise Refused(f"{file}: no such file; copies are in {home / backup.FOLDER}")
    if present.exists() and file.samefile(present):
        raise Refused(f"{file} is the ledger itself")
    there = present.exists()
    fenced = None
    if there:
        fenced = backup.fence(
            present, identity(), now + HELD, lambda owner, expires_at: expires_at > now and not is_dead(owner)
        )
    backup.check(file, fenced.installation if fenced is not None else None)
    kept = present.with_name(f"{present.name}.before-{now:%Y-%m-%dT%H%M%SZ}")
    if fenced is not None:
        backup.copy(present, kept)
    elif there:
        backup.move_away(present, kept)
    backup.put_back(file, present, fenced)
    return kept if there else None
