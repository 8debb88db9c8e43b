"""Where ONNX Runtime spends its time, node by node, as its own profiler says."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from inference.backends import Floats

_SUFFIX = "_kernel_time"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTime:
    """One operation of the network as the runtime runs it, fused and laid out anew; seconds are those of one round."""

    name: str
    op: str
    seconds: float


def traced(model: bytes, samples: Sequence[Floats], *, threads: int = 1, rounds: int = 2) -> list[NodeTime]:
    """Run every sample `rounds` times on the CPU; the first round, which warms up, is left out.

    The nodes come in the order in which they run.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "trace")
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for _ in range(rounds):
            for sample in samples:
                session.run(None, {name: sample})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = [event for event in events if event["cat"] == "Node" and event["name"].endswith(_SUFFIX)]
    each = len(ran) // rounds
    found: dict[str, NodeTime] = {}
    for event in ran[each:]:
        name = event["name"].removesuffix(_SUFFIX)
        before = found[name].seconds if name in found else 0.0
        seconds = before + event["dur"] / 1e6 / (rounds - 1)
        found[name] = NodeTime(name=name, op=event["args"]["op_name"], seconds=seconds)
    return list(found.values())
