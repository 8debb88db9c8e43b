"""What runs a network. Only the modules in here import a runtime."""

from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Accelerator = Literal["auto", "cuda", "cpu"]
"""auto tries CUDA and falls back to the CPU, cuda refuses to fall back, cpu does not try."""
Backend = Literal["auto", "onnxruntime", "openvino", "torch"]
"""auto is onnxruntime for fp32, and otherwise what there is for the device: torch on CUDA, openvino on a CPU."""
Precision = Literal["fp32", "bf16", "fp16"]

#: distributions whose versions belong beside a measurement
RUNTIME_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "openvino", "torch")


class NoAccelerator(Exception):
    """CUDA was asked for by name and does not run here. One line with the reason."""


class Session(Protocol):
    """One loaded network. `run` may be called by several threads at once."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The key-value pairs stored in the model file."""

    def run(self, batch: Floats) -> Floats:
        """The first output for the only input."""


class Runtime(Protocol):
    """Opens networks, all on the one device that was found to work."""

    provider: str
    #: why it is not the accelerator, in one line; None when it is, or when none was wanted
    fallback: str | None
    precision: Precision

    @property
    def on_accelerator(self) -> bool:
        """Whether batches pay."""

    def open(self, model: bytes, sample: Floats) -> Session:
        """Load a serialised model and run it once on `sample` to see that it runs."""
