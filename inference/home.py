"""The folder in which the engine looks for checkpoints and keeps what it measured."""

import errno
import os
from pathlib import Path


def home() -> Path:
    """HALVE_HOME, or ~/.halve. Raises OSError when that is nobody's: a container's user may have no home."""
    named = os.environ.get("HALVE_HOME") or "~/.halve"
    try:
        return Path(named).expanduser()
    except RuntimeError:
        raise OSError(errno.ENOENT, "no such user has a home here: let HALVE_HOME name a folder", named) from None


def expanded(path: str) -> Path:
    """The path, its `~` replaced where it stands for somebody's home; a file's name may begin with one too."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
