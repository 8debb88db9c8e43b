"""Which process is meant: a pid alone is not enough, for the system gives it out again."""

from pathlib import Path

import psutil


def birth(pid: int) -> str | None:
    """What tells a living process from every other that has, had or will have its pid; None when it is gone.

    On Linux the boot and the clock tick of its start, which no setting of the clock moves.
    """
    try:
        # the name, in parentheses, may hold anything; then come the state and, as the 20th, the start
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return _birth_elsewhere(pid)
    return None if fields[0] in "ZX" else f"{boot[:8]}-{fields[19]}"


def _birth_elsewhere(pid: int) -> str | None:
    if Path("/proc/self/stat").exists():
        return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    except psutil.NoSuchProcess:
        return None
