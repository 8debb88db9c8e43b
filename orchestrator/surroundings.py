"""What is around halve on this machine, and may stand in its way: processor, clock, ports, accounts."""

import ctypes
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import cloud, spec
from orchestrator.errors import Refused
from orchestrator.finding import Finding
from orchestrator.ledger import deployments
from orchestrator.ledger.store import Ledger
from orchestrator.spec import Spec

if TYPE_CHECKING:
    from orchestrator.providers.aws.check import Finding as Lacking

CPU_FLAGS = Path("/proc/cpuinfo")
#: without them a page takes several times as long on a CPU
QUICK_FLAG = "avx2"
BF16_FLAGS = {"amx_bf16", "avx512_bf16"}
#: adjtimex(2): the kernel's clock is not kept right by anybody
UNSYNCHRONISED = 5
#: of struct timex, with room to spare
TIMEX_BYTES = 512

#: what listens there by default, and where else it may be told to
PORTS = {
    7860: ("a door or `halve serve`", "door: {listen: ...} in the spec, or --port"),
    7870: ("the dashboard", "dashboard: {listen: ...} in the spec, or halve dashboard --listen"),
    7871: ("the daemon's metrics", "halve daemon --metrics HOST:PORT, or HALVE_METRICS"),
}


def of_processor(cpuinfo: str, cores: int) -> Finding:
    """How the CPU reads: `cpuinfo` as Linux has it, "" elsewhere."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    precisions = "fp32, bf16 with OpenVINO" if flags & BF16_FLAGS else "fp32"
    said = f"{cores} cores for this process, {precisions}"
    if flags and "neon" not in flags and "asimd" not in flags and QUICK_FLAG not in flags:
        remedy = "a newer processor or a GPU reads several times as fast; in a virtual machine pass the host's on"
        return Finding(check="processor", state="note", found=f"{said}; no AVX2", remedy=remedy)
    return Finding(check="processor", state="ok", found=said)


def cpuinfo() -> str:
    """What Linux says of the processors; "" where it is another system."""
    try:
        return CPU_FLAGS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def of_time(synchronised: bool | None) -> Finding:
    """Whether anybody keeps this machine's clock right. Windows, charges and AWS's signatures go by it."""
    if synchronised is None:
        return Finding(check="time", state="ok", found="this system does not say who keeps its clock")
    if synchronised:
        return Finding(check="time", state="ok", found="the kernel's clock is kept right")
    remedy = "timedatectl set-ntp true, or chrony; in a virtual machine or container its host's clock counts"
    return Finding(check="time", state="note", found="nobody keeps this machine's clock right", remedy=remedy)


def synchronised() -> bool | None:
    """As the kernel says (adjtimex(2), which changes nothing here); None where it does not."""
    try:
        said = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if said < 0 else bool(said != UNSYNCHRONISED)


def of_port(port: int) -> Finding:
    """Whether a default port is free; what is running has its own."""
    user, remedy = PORTS.get(port, ("a door", PORTS[7860][1]))
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError as error:
            found = f"127.0.0.1:{port}, for {user}: {error.strerror}"
            remedy = f"if that is not halve's own: {remedy}"
            return Finding(check="port", state="note", found=found, remedy=remedy)
    return Finding(check="port", state="ok", found=f"127.0.0.1:{port} is free, for {user}")


Looks = Callable[[Spec, Path], Iterable["Lacking"]]


def of_accounts(home: Path, ledger: Ledger, looks: Looks = cloud.findings) -> Iterator[Finding]:
    """Identity, permissions and quotas on AWS of every deployment that is up and rents there.

    What is well is one line; nothing is started, but this version's wheel is put into the bucket.
    """
    with ledger.read() as tx:
        rows = [row for row in deployments.known(tx) if row.wanted == "up"]
    for row in rows:
        try:
            wanted = spec.parse(row.spec, row.source)
            if "aws" not in wanted.provider:
                continue
            found = list(looks(wanted, home))
        except Refused as refusal:
            remedy = f"halve aws check {row.source}"
            yield Finding(check="AWS", state="bad", found=f"{row.name}: {refusal}", remedy=remedy)
            continue
        lacking = [one for one in found if one.remedy]
        for one in lacking:
            said = f"{row.name}: {one.region} {one.what}: {one.said}"
            yield Finding(check="AWS", state="bad" if one.stops else "note", found=said, remedy=one.remedy)
        if not lacking:
            who = found[0].said if found else ""
            yield Finding(check="AWS", state="ok", found=f"{row.name}: {who}; {len(found)} questions answered well")
