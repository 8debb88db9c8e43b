"""What a terminal is sent by a command, and the words of it that a person reads."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def screen(home: Path, arguments: str, **environment: str) -> str:
    """What a terminal of 80 columns is sent, be it good news (exit code 0) or bad (1)."""
    ours, theirs = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    whole = inherited | {"HALVE_HOME": str(home), "COLUMNS": "80", "TERM": "xterm-256color"} | environment
    command = [sys.executable, "-m", "orchestrator", *arguments.split()]
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=whole, cwd=ROOT)
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:
        pass  # the other side is closed
    os.close(ours)
    assert process.wait(120) in (0, 1), said.decode()
    assert b"Traceback" not in said, said.decode()
    return said.decode().replace("\r\n", "\n")


def plain(said: str) -> list[str]:
    """Its lines, without what colours them and moves the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said).splitlines()
