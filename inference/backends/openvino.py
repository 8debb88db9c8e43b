"""OpenVINO: ONNX models on the CPU in float32, or in bfloat16 where the CPU computes in it."""

import ctypes
import sys
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino

from inference.backends import Accelerator, Floats, NoAccelerator, Precision
from inference.models.weights import WeightsError

PROVIDER = "openvino-cpu"
HINTS: Mapping[str, str] = {"fp32": "f32", "bf16": "bf16"}
#: Blocks at least this large are given back to the system when they are freed. With 1 MiB, answers of the recogniser
#: would come and go with every line, which costs a tenth of its time.
GIVEN_BACK_BYTES = 8 * 2**20
_M_MMAP_THRESHOLD = -3  # malloc.h of glibc


class OpenVinoRuntime:
    """`threads` are those of one call. What is used at once has a lane of its own, made when it is first needed.

    `precision` is the one that models were really compiled for: a CPU without bfloat16 computes in float32, and
    `fallback` says so.
    """

    def __init__(
        self,
        *,
        accelerator: Accelerator = "auto",
        threads: int = 1,
        precision: Precision = "fp32",
        core: openvino.Core | None = None,
    ) -> None:
        """Raises NoAccelerator when CUDA is required, WeightsError for a precision that there is not."""
        if accelerator == "cuda":
            raise NoAccelerator("CUDA does not run here: OpenVINO runs models on the CPU; use onnxruntime or torch")
        if precision not in HINTS:
            raise WeightsError(f"openvino runs models in {' or '.join(HINTS)}, not in {precision}")
        _give_memory_back()
        self.provider = PROVIDER
        self.fallback: str | None = None
        self.precision: Precision = precision
        self._core = core or openvino.Core()
        self._options = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # One stream a lane: calls would go to streams in turn, and each stream makes its kernels, and keeps its
            # memory, for every input shape anew.
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # lanes would all be pinned to the first cores
        }

    @property
    def on_accelerator(self) -> bool:
        return False

    def open(self, model: bytes, sample: Floats) -> "OpenVinoSession":
        """Raises WeightsError when the model is none, or has an operation that OpenVINO lacks."""
        try:
            session = OpenVinoSession(self._core, self._core.read_model(model), self._options)
        except RuntimeError as error:
            raise WeightsError(f"openvino cannot read the model: {_first_line(error)}") from None
        session.run(sample)
        if session.precision != self.precision:
            self.fallback = f"{self.precision} was asked for and this CPU has none: models run in {session.precision}"
            self.precision = session.precision
        return session


class OpenVinoSession:
    """One network. Input and output are the model's first ones, float32.

    Kernels are made for each input shape and kept: a new one costs some tens of milliseconds, once for each lane.
    """

    def __init__(self, core: openvino.Core, model: Any, options: Mapping[str, Any]) -> None:
        self._core = core
        self._model = model
        self._options = dict(options)
        self._idle: deque[Any] = deque()
        first = self._compiled()
        self.precision: Precision = "bf16" if _hint(first) == openvino.Type.bf16 else "fp32"
        self._idle.append(first.create_infer_request())

    @property
    def metadata(self) -> Mapping[str, str]:
        if not self._model.has_rt_info(["framework"]):
            return {}
        return {str(key): str(value.value) for key, value in self._model.get_rt_info()["framework"].items()}

    def run(self, batch: Floats) -> Floats:
        try:
            lane = self._idle.pop()  # the one used last: its kernels and memory are warm
        except IndexError:
            lane = self._compiled().create_infer_request()
        try:
            lane.infer([np.ascontiguousarray(batch)], share_inputs=True)
            return np.array(lane.get_output_tensor(0).data)
        finally:
            self._idle.append(lane)

    def _compiled(self) -> Any:
        return self._core.compile_model(self._model, "CPU", self._options)


def _hint(compiled: Any) -> Any:
    return compiled.get_property("INFERENCE_PRECISION_HINT")


def _give_memory_back() -> None:
    """By default glibc keeps ever larger blocks for later. With an input of another size each time nothing fits, and
    the process grows: to 3.2 GB instead of 0.8 over 24 sizes of the shipped detector (measured)."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, GIVEN_BACK_BYTES)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300]
