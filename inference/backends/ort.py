"""ONNX Runtime: CUDA when a session on it is really created and runs, the CPU otherwise, and said aloud."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnxruntime

from inference.backends import Accelerator, Floats, NoAccelerator, Precision
from inference.models import graph
from inference.precision import halved

__all__ = ["CHANNELS_AT_ONCE", "CPU", "CUDA", "NoAccelerator", "OrtRuntime", "OrtSession", "settings"]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
#: of a 1x1 convolution's input, added up before its output is written; the default of 128 writes the output of PP-OCR's
#: wide layers up to six times, which costs the detector 2-4 % (measured on Zen 5) and nothing else anything
CHANNELS_AT_ONCE = "mlas.nchwc_pointwise_conv_max_input_channel_batch"
Providers = list[tuple[str, dict[str, str]]]

log = logging.getLogger(__name__)


class OrtRuntime:
    """`threads` are those of one call. A call with one thread runs in its caller, so several callers share one copy of
    the weights without getting in each other's way. With fp16, models are rewritten: float32 in, out, and where half
    precision would lose too much (precision.BLOCKED).
    """

    def __init__(
        self,
        *,
        accelerator: Accelerator = "auto",
        threads: int = 1,
        precision: Precision = "fp32",
        create: Callable[[bytes, Providers, int], Any] | None = None,
    ) -> None:
        self.provider = CPU if accelerator == "cpu" else CUDA
        self.fallback: str | None = None
        self.precision: Precision = precision  # fp32: as the model file says
        self._required = accelerator == "cuda"
        self._threads = threads
        self._create = create or created

    @property
    def on_accelerator(self) -> bool:
        return self.provider != CPU

    def open(self, model: bytes, sample: Floats) -> "OrtSession":
        """Raises NoAccelerator when CUDA is required and does not run."""
        if self.precision == "fp16":
            model = graph.serialised(halved(graph.parsed(model)))
        if self.provider == CUDA:
            try:
                return self._open_on_cuda(model, sample)
            except Exception as error:  # noqa: BLE001  whatever the driver raises means: not here
                reason = " ".join(str(error).split())[:300]
                if self._required:
                    raise NoAccelerator(f"CUDA does not run here: {reason}") from None
                self.provider, self.fallback = CPU, f"CUDA was tried and did not run: {reason}"
                log.log(_loudness(), "%s; the CPU runs the models", self.fallback)
        session = self._create(model, [(CPU, {"arena_extend_strategy": "kSameAsRequested"})], self._threads)
        return _tried(session, sample)

    def _open_on_cuda(self, model: bytes, sample: Floats) -> "OrtSession":
        # HEURISTIC: an exhaustive search would be repeated for each of the many input shapes
        options = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
        session = self._create(model, [(CUDA, options), (CPU, {})], self._threads)
        if (given := session.get_providers())[0] != CUDA:
            raise RuntimeError(f"the session was given {', '.join(given)}")
        return _tried(session, sample)


def created(model: bytes, providers: Providers, threads: int) -> Any:
    """An onnxruntime.InferenceSession. It may come back on fewer providers than were asked for: ask it."""
    with contextlib.redirect_stdout(sys.stderr):  # it reports missing libraries by print
        if providers[0][0] == CUDA:
            onnxruntime.preload_dlls()
    options = settings(threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "not in available provider names": the session itself is asked
        return onnxruntime.InferenceSession(model, sess_options=options, providers=providers, enable_fallback=0)


def settings(threads: int) -> Any:
    """The onnxruntime.SessionOptions of every session, whoever opens it: a profile is of what is run."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = True  # a fifth faster than asking the system each time
    options.enable_mem_pattern = False  # planned per input shape: no faster here, and memory grows with each shape
    options.log_severity_level = 4
    options.add_session_config_entry(CHANNELS_AT_ONCE, "512")
    return options


class OrtSession:
    """One network. Input and output are the model's first ones, float32."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._output = session.get_outputs()[0].name

    @property
    def metadata(self) -> Mapping[str, str]:
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def run(self, batch: Floats) -> Floats:
        result: Floats = self._session.run([self._output], {self._input: batch})[0]
        return result


def _loudness() -> int:
    """A warning where there is something to lose: a CUDA build, or an NVIDIA card that this build cannot use."""
    something = CUDA in onnxruntime.get_available_providers() or Path("/dev/nvidiactl").exists()
    return logging.WARNING if something else logging.INFO


def _tried(session: Any, sample: Floats) -> OrtSession:
    opened = OrtSession(session)
    opened.run(sample)
    return opened
