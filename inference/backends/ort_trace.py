"""Where ONNX Runtime spends its time, node by node, as its own profiler says."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from inference.backends import Floats
from inference.backends.ort import settings

_SUFFIX = "_kernel_time"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTime:
    """One operation of the network as the runtime runs it, fused and laid out anew; seconds are those of all samples
    once."""

    name: str
    op: str
    seconds: float


def traced(model: bytes, samples: Sequence[Floats], *, threads: int = 1, rounds: int = 3) -> list[NodeTime]:
    """Run every sample `rounds` times on the CPU; the first round, which warms up, is left out, and of the others each
    node's best counts: the runtime's clock goes on while other work has the processor.

    The nodes come in the order in which they run.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = settings(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "trace")
        session = onnxruntime.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for _ in range(rounds):
            for sample in samples:
                session.run(None, {name: sample})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = [event for event in events if event["cat"] == "Node" and event["name"].endswith(_SUFFIX)]
    each = len(ran) // rounds
    found: dict[str, NodeTime] = {}
    for same in zip(*(ran[start : start + each] for start in range(each, len(ran), each)), strict=True):
        name = same[0]["name"].removesuffix(_SUFFIX)
        before = found[name].seconds if name in found else 0.0
        seconds = before + min(event["dur"] for event in same) / 1e6
        found[name] = NodeTime(name=name, op=same[0]["args"]["op_name"], seconds=seconds)
    return list(found.values())
