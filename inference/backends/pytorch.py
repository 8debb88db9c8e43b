"""PyTorch: runs ONNX models, read as plain graphs. For machines where onnxruntime-gpu does not run and torch does."""

import contextlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from inference.backends import Accelerator, Floats, NoAccelerator, Precision
from inference.backends.cuda_graphs import Recorder, Replays
from inference.backends.operations import Operation, operation
from inference.models import graph
from inference.models.graph import Graph
from inference.models.weights import WeightsError

CPU = "torch-cpu"
CUDA = "torch-cuda"
REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchRuntime:
    """`threads` are those of one call, and of the whole process: torch has one pool.

    With a reduced precision, products and convolutions run in it, sums over many terms and softmax in float32
    (torch.autocast); weights stay float32 in memory.
    """

    def __init__(
        self,
        *,
        accelerator: Accelerator = "auto",
        threads: int = 1,
        precision: Precision = "fp32",
        graphs: bool = True,
    ) -> None:
        """`graphs` counts on CUDA: record networks, and replay them. Raises NoAccelerator when CUDA is required and
        does not run."""
        self._graphs = graphs
        torch.set_num_threads(threads)
        self.precision = precision
        self.provider = CPU
        self.fallback: str | None = None
        if accelerator != "cpu":
            reason = _why_not_cuda()
            if reason is None:
                self.provider = CUDA
            elif accelerator == "cuda":
                raise NoAccelerator(f"CUDA does not run here: {reason}")
            else:
                self.fallback = f"CUDA was tried and did not run: {reason}"

    @property
    def on_accelerator(self) -> bool:
        return self.provider == CUDA

    def open(self, model: bytes, sample: Floats) -> "TorchSession":
        """Raises WeightsError when the model is none, or has an operation that is not known here."""
        device = torch.device("cuda" if self.on_accelerator else "cpu")
        session = TorchSession(graph.parsed(model), device, REDUCED.get(self.precision), graphs=self._graphs)
        session.run(sample)
        return session


class TorchSession:
    """One network. `run` may be called by several threads at once."""

    def __init__(self, network: Graph, device: Any, reduced: Any, *, graphs: bool) -> None:
        if not network.inputs or not network.outputs:
            raise WeightsError("not a network: it has no input or no output")
        self._metadata = dict(network.metadata)
        self._device = device
        self._reduced = reduced
        self._input = network.inputs[0].name
        self._output = network.outputs[0].name
        self._constants = {name: torch.from_numpy(np.array(value)) for name, value in network.constants.items()}
        self._steps = self._planned(network)
        self._replays: Replays | None = None
        if device.type == "cuda":
            recorder = Recorder(self._computed)
            self._replays = Replays(recorder.plain, recorder.record if graphs else lambda shape: recorder.plain)

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._metadata

    def run(self, batch: Floats) -> Floats:
        if self._replays:
            return self._replays.run(batch)
        with torch.inference_mode():
            # channels of a pixel beside each other: convolutions are faster so, on CPUs by a third (DBNet, measured)
            x = torch.from_numpy(np.ascontiguousarray(batch)).to(memory_format=torch.channels_last)
            result: Floats = self._computed(x).numpy()
        return result

    def _computed(self, x: Any) -> Any:
        """From a tensor on the device to one there, float32: the same on a CPU and a GPU."""
        values: dict[str, Any] = {self._input: x}
        with self._lowered():
            for compute, inputs, output, over in self._steps:
                values[output] = compute(*(self._value(values, name) for name in inputs))
                for name in over:
                    del values[name]
        return values[self._output].float().contiguous()

    def _value(self, values: dict[str, Any], name: str) -> Any:
        return values[name] if name in values else self._constants.get(name)

    def _lowered(self) -> Any:
        return torch.autocast(self._device.type, self._reduced) if self._reduced else contextlib.nullcontext()

    def _planned(self, network: Graph) -> list[tuple[Operation, tuple[str, ...], str, tuple[str, ...]]]:
        """What depends on no input is computed now; the rest: (operation, inputs, output, values no longer needed)."""
        steps: list[tuple[Operation, tuple[str, ...], str]] = []
        here: set[str] = set()
        for node in network.nodes:
            if len([name for name in node.outputs if name]) != 1:
                raise WeightsError(f"the torch backend has no {node.op} with several outputs; use onnxruntime for it")
            compute, output = operation(node, network.opset), node.outputs[0]
            if all(name in self._constants for name in node.inputs if name):
                self._constants[output] = compute(*(self._constants.get(name) for name in node.inputs))
            else:
                steps.append((compute, node.inputs, output))
                here.update(node.inputs[1:] if node.op == "Resize" else ())
        used = {name for _, inputs, _ in steps for name in inputs if name}
        self._constants = {
            name: value if name in here else _placed(value, self._device)
            for name, value in self._constants.items()
            if name in used
        }
        values = used - set(self._constants)
        last = {name: i for i, (_, inputs, _) in enumerate(steps) for name in inputs if name in values}
        last[self._output] = len(steps)
        return [
            (compute, inputs, output, tuple({name for name in inputs if last.get(name) == i}))
            for i, (compute, inputs, output) in enumerate(steps)
        ]


class NetworkSession:
    """A torch network as it is, on the CPU: what an exported file is compared with."""

    def __init__(self, network: Any) -> None:
        self._network = network.eval()

    @property
    def metadata(self) -> Mapping[str, str]:
        return {}

    def run(self, batch: Floats) -> Floats:
        with torch.inference_mode():
            result: Floats = self._network(torch.from_numpy(batch)).numpy()
        return result


def _placed(tensor: Any, device: Any) -> Any:
    """Weights go to the device; whole numbers are shapes and axes, which are read on the CPU."""
    if not tensor.is_floating_point():
        return tensor
    layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
    return tensor.to(device).contiguous(memory_format=layout)


def _why_not_cuda() -> str | None:
    """None when a kernel really ran."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "no driver found" and the like: the reason is asked for below
            torch.ones(1, device="cuda").add(1).item()
    except Exception as error:  # noqa: BLE001  whatever the driver raises means: not here
        return " ".join(str(error).split())[:300]
    return None
