"""The tiny replica's command line as a host is told it: by name, in a process that knows no pytest."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("tiny_replica.py")


def command(payload: Mapping[str, Any], announce: Path) -> list[str]:
    own = [str(one) for one in payload.get("manners", ())]
    return [sys.executable, "-S", str(SCRIPT), str(announce), *own]


def slow(payload: Mapping[str, Any], announce: Path) -> list[str]:
    return [*command(payload, announce), "slow"]
