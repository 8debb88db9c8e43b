"""HALVE_HOME: where the ledger, logs and results are."""

import os
from pathlib import Path


def home() -> Path:
    """The folder named by HALVE_HOME, `~/.halve` by default. It need not exist yet."""
    return Path(os.environ.get("HALVE_HOME") or "~/.halve").expanduser().absolute()
