"""Which backend and precision a device reads fastest with, among those that read as well: measured once, remembered."""

import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from inference import bench, images, meters, models
from inference.agreement import Page, agreement
from inference.backends import Accelerator, Backend, Precision
from inference.engine import Engine
from inference.home import home
from inference.models import PRECISIONS, SAME_NETWORKS, UnknownModel, WeightsError

ROUNDS = 3
LEAST_CHARACTERS = 0.98  # of the reference's, found again; a reduced precision keeps about 0.99 (measured)
ROOM = 0.001  # of the true characters, that a candidate may lose: less than one on the drawn pages
#: of /proc/cpuinfo: what decides which precision is fast; model names of virtual machines do not tell
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
FILE = "precision.json"

Candidate = tuple[Backend, Precision]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A candidate as it was measured. `milliseconds` are of an image: the processor's on a CPU, elapsed on a GPU.

    Shares are 0-1: of the reference's characters, and of the true ones where they are known. `sound` when the text is
    as good as the reference's; `reason` says why it is not, or why it did not run.
    """

    backend: Backend
    precision: Precision
    milliseconds: float | None = None
    characters_equal: float | None = None
    true_characters: float | None = None
    sound: bool = False
    reason: str | None = None


def candidates(accelerator: Accelerator = "auto") -> list[Candidate]:
    """Those that are installed, the reference first. Without a GPU torch is left out: slowest on CPUs (measured)."""
    nvidia = accelerator != "cpu" and Path("/dev/nvidiactl").exists()
    skipped = () if nvidia else ("torch",)
    found: list[Candidate] = [
        (backend, precision)
        for backend, precisions in PRECISIONS.items()
        for precision in precisions
        if find_spec(backend) and backend not in skipped and (precision != "fp16" or nvidia)
    ]
    return found or [("torch", "fp32")]


def tried(
    model: str,
    files: Sequence[bytes],
    truth: Sequence[Page] | None = None,
    *,
    accelerator: Accelerator = "auto",
    threads: int = 1,
    only: Sequence[Candidate] | None = None,
) -> list[Trial]:
    """Read the files with each candidate; the first is the reference. Raises what loading that raises, and BadImage."""
    trials: list[Trial] = []
    reference: list[Page] = []
    for backend, precision in only or candidates(accelerator):
        try:
            engine = models.load(model, accelerator=accelerator, threads=threads, backend=backend, precision=precision)
        except (UnknownModel, WeightsError) as error:
            if not trials:
                raise
            trials.append(Trial(backend=backend, precision=precision, reason=str(error)))
            continue
        if engine.precision != precision:
            trials.append(Trial(backend=backend, precision=precision, reason=engine.fallback))
            continue
        pages = _read(engine, files)  # which makes kernels for these shapes as well
        reference = reference or pages
        true = agreement(truth, pages)[1] if truth and any(truth) else None
        equal = agreement(reference, pages)[1]
        reason = _unsound(equal, true, trials[0].true_characters if trials else true)
        trials.append(
            Trial(
                backend=backend,
                precision=precision,
                milliseconds=round(_milliseconds(engine, files), 2),
                characters_equal=round(equal, 5),
                true_characters=None if true is None else round(true, 5),
                sound=reason is None,
                reason=reason,
            )
        )
    return trials


def best(trials: Sequence[Trial]) -> Trial:
    """The fastest sound one; the reference is always sound."""
    return min((trial for trial in trials if trial.sound), key=lambda trial: trial.milliseconds or 0.0)


def remember(model: str, trials: Sequence[Trial], accelerator: Accelerator = "auto") -> Path:
    """Write the choice for this device, in one piece, with what it was chosen from. Raises OSError."""
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True)
    chosen = best(trials)
    known = _known()
    name = device(accelerator)
    known[name] = _entry(known, name)
    known[name][model] = {
        "backend": chosen.backend,
        "precision": chosen.precision,
        "versions": bench.versions(),
        "trials": [asdict(trial) for trial in trials],
    }
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(known, indent=2), encoding="utf-8")
    partial.replace(file)
    return file


def remembered(model: str, backend: Backend = "auto", accelerator: Accelerator = "auto") -> Candidate:
    """What was chosen for this model on this device, with the packages that are installed; else fp32 by `backend`.

    A `backend` that was named is kept: then the choice counts only if it is of that backend.
    """
    entry = _entry(_known(), device(accelerator), SAME_NETWORKS.get(model, model))
    if entry.get("versions") != bench.versions():
        return backend, "fp32"
    for chosen, precisions in PRECISIONS.items():
        for precision in precisions:
            if (entry.get("backend"), entry.get("precision")) == (chosen, precision) and backend in ("auto", chosen):
                return chosen, precision
    return backend, "fp32"


def device(accelerator: Accelerator = "auto") -> str:
    """The GPU's name, or the CPU's with what it can compute in."""
    nvml = None if accelerator == "cpu" else meters.gpu_library()
    return (nvml and meters.gpu_name(nvml)) or " ".join([bench.cpu_name(), *cpu_flags()])


def cpu_flags() -> list[str]:
    """Those of FLAGS that this CPU has; none where the system does not tell."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    words = next((line.split() for line in lines if line.startswith("flags")), [])
    return [flag for flag in FLAGS if flag in words]


def _file() -> Path:
    return home() / FILE


def _known() -> dict[str, Any]:
    """Nothing when it was never written, or by something else."""
    try:
        content = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _entry(known: dict[str, Any], *names: str) -> dict[str, Any]:
    """What stands under these names, one in another; nothing where that is not of the shape that is written here."""
    for name in names:
        found = known.get(name)
        known = found if isinstance(found, dict) else {}
    return known


def _read(engine: Engine, files: Sequence[bytes]) -> list[Page]:
    return [[(line.text, line.box) for line in engine.read([images.decode(file)])[0].lines] for file in files]


def _milliseconds(engine: Engine, files: Sequence[bytes]) -> float:
    clock = time.perf_counter if engine.on_accelerator else time.process_time
    taken = []
    for _ in range(ROUNDS):
        started = clock()
        _read(engine, files)
        taken.append((clock() - started) / len(files) * 1000)
    return statistics.median(taken)


def _unsound(equal: float, true: float | None, wanted: float | None) -> str | None:
    if equal < LEAST_CHARACTERS:
        return f"{equal:.1%} of the characters are the reference's, fewer than {LEAST_CHARACTERS:.0%}"
    if true is not None and wanted is not None and true < wanted - ROOM:
        return f"{true:.1%} of the characters are true, the reference's {wanted:.1%}"
    return None
