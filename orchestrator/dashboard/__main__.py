"""python -m orchestrator.dashboard --home DIR: as a daemon starts it."""

import argparse
import logging
import os
import sys
from pathlib import Path

from orchestrator.clock import SystemClock
from orchestrator.dashboard import process
from orchestrator.door.process import hold
from orchestrator.errors import Refused
from orchestrator.ledger.store import open_ledger


def main() -> int:
    """Be the dashboard that a spec in the ledger wants, for as long as one wants it so."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.dashboard", description="The dashboard of a ledger.")
    parser.add_argument("--home", type=Path, required=True)
    home: Path = parser.parse_args().home
    os.environ["HALVE_HOME"] = str(home)  # what a page starts, a daemon for `drain`, belongs there too
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    lock = hold(process.lock_file(home))
    if lock is None:
        return 0  # somebody was quicker
    with lock:
        ledger = open_ledger(home)
        wanted = process.wanted(ledger)
        if wanted is None:
            return 0
        try:
            from orchestrator.dashboard.serving import serve
            from orchestrator.dashboard.site import Settings

            serve(
                Settings(home=home, listen=wanted.listen, actions=wanted.actions),
                ledger,
                SystemClock(),
                say=lambda url: logging.getLogger("halve.dashboard").info("dashboard at %s", url),
                leave=lambda: process.wanted(ledger) != wanted,
            )
        except ModuleNotFoundError as missing:
            sys.stderr.write(f"halve: the dashboard needs {missing.name}: pip install 'halve[dashboard]'\n")
            return 1
        except Refused as refusal:
            sys.stderr.write(f"halve: {refusal}\n")
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
