"""What takes the machine for a while, export and measurement, in a process of its own that gives way to requests.

python -m inference.ui.workshop JSON    where JSON is a Task's fields; writes a result's fields as JSON
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from inference.backends import Accelerator, Backend, Floats, Precision, Session
from inference.refusals import Refusal

Kind = Literal["export", "bench"]

SECONDS = 300.0  # the longest that a task may take
ROUNDS = 3  # of a timing, of which the best counts
NICENESS = 10
SIDES = (640, 800, 1024)  # pixels, of the square that is timed


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What to do, with the replica's own settings. `output` and `side` are of an export, which is on one CPU thread."""

    kind: Kind
    model: str
    accelerator: Accelerator = "auto"
    backend: Backend = "auto"
    precision: Precision = "fp32"
    workers: int = 1
    threads: int = 1
    output: str = ""
    side: int = 640


def exportable(model: str) -> Literal["torch", "onnx", "card"]:
    """What the model's detector is: a checkpoint, a published ONNX file, or one that the user named himself."""
    from inference import models
    from inference.models import dbnet

    if models.is_card(model):
        return "card"
    return "torch" if model == dbnet.NAME else "onnx"


def able() -> bool:
    """Whether there is what exports are compared with."""
    return find_spec("torch") is not None


async def run(task: Task) -> dict[str, Any]:
    """The result's fields: of an export those of Exported, `before_ms` and `after_ms`; of a bench those of
    Measured, `load` and `cores`.

    The process ends with the caller. Raises Refusal with the line that it ended with.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "inference.ui.workshop",
        json.dumps(asdict(task)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the server, which ends this
        env=os.environ | ({"OMP_NUM_THREADS": "1"} if task.kind == "export" else {}),  # torch takes all otherwise
    )
    try:
        async with asyncio.timeout(SECONDS):
            said, complained = await process.communicate()
    except TimeoutError:
        raise Refusal(504, f"not done after {SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        lines = complained.decode("utf-8", "replace").strip().splitlines() or ["it ended without a word"]
        raise Refusal(500, lines[-1][:300])
    found: dict[str, Any] = json.loads(said)
    return found


def export(task: Task) -> dict[str, Any]:
    """Write the detector and time a square of `side` pixels with the source and with the file, on one CPU thread.

    Raises what export.export raises.
    """
    import numpy as np

    from inference import export as exporting
    from inference.backends.ort import OrtRuntime
    from inference.models import dbnet, ppocr, weights

    output = Path(task.output)
    found = exporting.export(task.model, output, fp16=task.precision == "fp16")
    sample = np.random.default_rng(exporting.SEED).uniform(-1, 1, (1, 3, task.side, task.side)).astype(np.float32)
    runtime = OrtRuntime(accelerator="cpu")
    if task.model == dbnet.NAME:
        from inference.backends import dbnet as network
        from inference.backends.pytorch import NetworkSession

        source: Session = NetworkSession(network.load(dbnet.folder() / dbnet.CHECKPOINT).network)
    else:
        source = runtime.open(weights.read(ppocr.PACKAGE, *ppocr.DETECTOR), sample)
    return asdict(found) | {
        "before_ms": _milliseconds(source, sample),
        "after_ms": _milliseconds(runtime.open(output.read_bytes(), sample), sample),
    }


def bench(task: Task) -> dict[str, Any]:
    """The row of all drawn pages together, and how busy the machine was before. Raises what models.load raises."""
    from inference import bench as benchmark
    from inference import models
    from inference.service import cores

    load = os.getloadavg()[0]
    engine = models.load(
        task.model,
        accelerator=task.accelerator,
        threads=task.threads,
        backend=task.backend,
        precision=task.precision,
    )
    measured = benchmark.measure(engine, benchmark.drawn_pages(), workers=task.workers, threads=task.threads)
    return asdict(measured) | {"load": load, "cores": cores()}


def _milliseconds(session: Session, sample: Floats) -> float:
    session.run(sample)
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        session.run(sample)
        taken.append(time.perf_counter() - started)
    return round(min(taken) * 1000, 2)


def main(argument: str) -> int:
    """Exit code 1 and one line on stderr when it cannot be done."""
    from inference.export import ExportFailed
    from inference.models import NoAccelerator, UnknownModel, WeightsError

    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICENESS)
    given = json.loads(argument)
    task = Task(**{field.name: given[field.name] for field in fields(Task)})
    try:
        json.dump(export(task) if task.kind == "export" else bench(task), sys.stdout)
    except (ExportFailed, WeightsError, UnknownModel, NoAccelerator, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
