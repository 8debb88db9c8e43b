"""What stands in the way on this machine, and what to do about it: each finding with its remedy."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from orchestrator import cards, surroundings
from orchestrator.cards import CUDA12_SERVES, CUDA12_TORCH_SERVES, CUDA13_SERVES, Driver, NoDriver
from orchestrator.clock import Clock, SystemClock
from orchestrator.errors import Refused
from orchestrator.finding import Finding, State
from orchestrator.ledger import checks, leases, store
from orchestrator.ledger.store import Ledger

LEAST_FREE_BYTES = 200 * 2**20  # below, the ledger and its copies may find no room
FEW_FREE_BYTES = 2 * 2**30
MOST_SKEW = timedelta(seconds=5)
GPU_INSTALL = "make ACCELERATOR=gpu, or pip install -c {constraints} 'halve[gpu,torch]'"


Runs = Callable[[str], str | None]
"""Whether a backend (onnxruntime, torch) really runs on CUDA: None, or why not, in one line."""


def examine(home: Path, *, runs: Runs, loads: Callable[[], str | None], clock: Clock | None = None) -> list[Finding]:
    """All findings, in the order in which they should be mended. `loads` says why the engine does not load at all."""
    clock = clock or SystemClock()
    try:
        driver: Driver | None = cards.driver()
        said = ""
    except NoDriver as reason:
        driver, said = None, str(reason)
    return [
        surroundings.of_processor(surroundings.cpuinfo(), surroundings.cores()),
        *of_driver(driver, said, device=cards.DRIVER_FILE.exists()),
        *(of_packages(driver, installed()) if driver and driver.cards else ()),
        of_engine(loads()),
        *(of_backends(driver, runs) if driver and driver.cards else ()),
        *map(surroundings.of_port, surroundings.PORTS),
        of_disk(home, shutil.disk_usage(_existing(home)).free),
        of_folder(home, clock),
        surroundings.of_time(surroundings.synchronised()),
        *of_ledger(home, clock.now()),
    ]


def of_driver(driver: Driver | None, said: str, *, device: bool) -> Iterator[Finding]:
    """The driver and each card: what it computes with, and whether any set of packages serves it."""
    if driver is None:
        if device:
            remedy = "install the driver of this kernel again (nvidia-smi must answer), or reboot after its update"
            yield Finding(
                check="driver", state="bad", found=f"a card is here, its driver does not answer: {said}", remedy=remedy
            )
        else:
            yield Finding(check="driver", state="ok", found="no NVIDIA card: the CPU reads")
        return
    yield Finding(
        check="driver", state="ok", found=f"{driver.version}, runs CUDA up to {driver.cuda[0]}.{driver.cuda[1]}"
    )
    wanted = (13, 0) if cards.constraints([one.capability for one in driver.cards]) == cards.NEWEST_SET else (12, 0)
    if driver.cards and driver.cuda < wanted:
        least = "580" if wanted[0] == 13 else "525"
        yield Finding(
            check="driver",
            state="bad",
            found=f"the packages for these cards need CUDA {wanted[0]}",
            remedy=f"update the driver to {least} or later",
        )
    for card in driver.cards:
        major, minor = card.capability
        size, precisions = f"{card.memory_bytes / 2**30:.0f} GiB", ", ".join(card.precisions)
        described = f"{card.name}: compute capability {major}.{minor}, {size}, {precisions}"
        if card.capability < CUDA12_TORCH_SERVES:
            yield Finding(
                check="card",
                state="bad",
                found=f"{described}; no packages serve it",
                remedy="use the CPU: pip install 'halve[cpu]'",
            )
        elif card.capability < CUDA12_SERVES:
            yield Finding(
                check="card",
                state="note",
                found=f"{described}; only torch serves it",
                remedy="run with --backend torch",
            )
        else:
            yield Finding(check="card", state="ok", found=described)


def of_packages(driver: Driver, installed: Mapping[str, int]) -> Iterator[Finding]:
    """Whether the installed packages have kernels for the oldest card. `installed`: package -> CUDA's major version."""
    wanted = cards.constraints([card.capability for card in driver.cards])
    remedy = GPU_INSTALL.format(constraints=wanted)
    oldest = min(card.capability for card in driver.cards)
    if not installed:
        yield Finding(
            check="packages", state="note", found="a card is here, but the CPU's packages are installed", remedy=remedy
        )
    for package, cuda in installed.items():
        served = cuda < 13 or oldest >= CUDA13_SERVES
        found = f"{package} is built for CUDA {cuda}" + (
            "" if served else f", which has no kernels for {oldest[0]}.{oldest[1]}"
        )
        yield Finding(check="packages", state="ok" if served else "bad", found=found, remedy="" if served else remedy)


def installed() -> dict[str, int]:
    """The packages here that bring CUDA, with the major version of it that they were built for."""
    found: dict[str, int] = {}
    for package in ("onnxruntime-gpu", "torch"):
        try:
            needs, its = requires(package) or [], version(package)
        except PackageNotFoundError:
            continue
        if any(need.startswith("nvidia-") and "-cu12" in need for need in needs):
            found[f"{package} {its}"] = 12
        elif any(need.startswith(("nvidia-", "cuda-")) for need in needs):
            found[f"{package} {its}"] = 13
    return found


def of_engine(trouble: str | None) -> Finding:
    """`trouble`: why the engine does not load."""
    if trouble is None:
        return Finding(check="engine", state="ok", found="the default model loads")
    return Finding(
        check="engine",
        state="bad",
        found=trouble,
        remedy="pip install 'halve[cpu]' or 'halve[gpu]' into a fresh environment",
    )


def of_backends(driver: Driver, runs: Runs) -> Iterator[Finding]:
    """Whether a kernel really ran. One backend is enough; that the other does not run is worth a note."""
    troubles = {backend: runs(backend) for backend in ("onnxruntime", "torch")}
    works = [backend for backend, trouble in troubles.items() if trouble is None]
    remedy = GPU_INSTALL.format(constraints=cards.constraints([card.capability for card in driver.cards]))
    for backend, trouble in troubles.items():
        if trouble is None:
            yield Finding(check="CUDA", state="ok", found=f"{backend} runs on it")
        else:
            use = f"run with --backend {works[0]}, or " if works else ""
            yield Finding(
                check="CUDA", state="note" if works else "bad", found=f"{backend}: {trouble}", remedy=use + remedy
            )


def of_disk(home: Path, free: int) -> Finding:
    """Room for the ledger, its copies, logs and results."""
    state: State = "bad" if free < LEAST_FREE_BYTES else "note" if free < FEW_FREE_BYTES else "ok"
    remedy = "" if state == "ok" else "make room, or set HALVE_HOME to a folder on a larger disk"
    return Finding(check="disk", state=state, found=f"{free / 2**30:.1f} GiB free for {home}", remedy=remedy)


def of_folder(home: Path, clock: Clock) -> Finding:
    """Whether HALVE_HOME can be written, and whether its disk keeps the same time as this machine."""
    try:
        with tempfile.NamedTemporaryFile(dir=_existing(home), prefix=".halve-doctor-") as file:
            os.utime(file.fileno())
            stamped = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)
    except OSError as error:
        remedy = "allow writing there, or set HALVE_HOME to another folder"
        return Finding(check="HALVE_HOME", state="bad", found=f"{home}: {error.strerror}", remedy=remedy)
    skew = (stamped - clock.now()).total_seconds()
    if abs(skew) > MOST_SKEW.total_seconds():
        found = f"{home}: its disk's clock is {skew:+.0f} s off this machine's"
        return Finding(check="HALVE_HOME", state="bad", found=found, remedy="let both follow NTP")
    return Finding(check="HALVE_HOME", state="ok", found=f"{home} can be written")


def of_ledger(home: Path, now: datetime) -> Iterator[Finding]:
    """The ledger's clock and health; without one there is nothing to say yet."""
    if "HALVE_DATABASE_URL" not in os.environ and not (home / "halve.db").exists():
        yield Finding(check="ledger", state="ok", found=f"none in {home} yet")
        return
    try:
        ledger = store.open_ledger(home)
    except Refused as refusal:
        found, _, remedy = str(refusal).partition("; ")
        remedy = remedy or "halve ledger restore FILE goes back to a copy"
        yield Finding(check="ledger", state="bad", found=found, remedy=remedy)
        return
    with contextlib.closing(ledger):
        yield of_clock(ledger, now)
        yield from of_health(home, ledger, now)
        yield from surroundings.of_accounts(home, ledger)


def of_clock(ledger: Ledger, now: datetime) -> Finding:
    """What the ledger says has happened cannot lie ahead: closed charges would begin before they end."""
    with ledger.read() as tx:
        lease = leases.held(tx)
    ticked_at = None if lease is None else lease.last_tick_at
    if ticked_at is not None and ticked_at > now + MOST_SKEW:
        ahead = f"{(ticked_at - now).total_seconds():.0f} s"
        remedy = "set this machine's clock (timedatectl set-ntp true); nothing is decided before that moment has passed"
        return Finding(
            check="clock", state="bad", found=f"the ledger's last tick is {ahead} ahead of now", remedy=remedy
        )
    last = "no daemon has ticked yet" if ticked_at is None else f"the last tick was at {ticked_at:%Y-%m-%d %H:%M:%S}"
    return Finding(check="clock", state="ok", found=f"{now:%Y-%m-%d %H:%M:%S} UTC; {last}")


def of_health(home: Path, ledger: Ledger, now: datetime) -> Iterator[Finding]:
    """What `halve ledger check` asks, in one line or one for each trouble."""
    from orchestrator.standing import findings

    with ledger.read() as tx:
        troubles = checks.check(tx)
    troubles |= findings(home, ledger, now)
    for name, those in troubles.items():
        for trouble in those:
            yield Finding(
                check="ledger",
                state="bad",
                found=f"{name.replace('_', ' ')}: {trouble}",
                remedy="halve ledger check; halve why",
            )
    if not any(troubles.values()):
        yield Finding(check="ledger", state="ok", found=f"{len(troubles)} questions answered well")


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest one above that is there."""
    return next(one for one in (path, *path.parents) if one.is_dir())
