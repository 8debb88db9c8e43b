"""What a run takes besides time: memory of this process, and a GPU's memory and energy by NVML. Unknown is None."""

import contextlib
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLE_SECONDS = 0.05  # NVML renews its readings about ten times a second

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"  # Documentation/filesystems/proc.rst: "writing 5 resets the peak resident set size"


@dataclass(slots=True, kw_only=True)
class Taken:
    """`memory_bytes` is the peak of this process while it ran (where the system cannot tell: since it started),
    `gpu_memory_bytes` the peak of what is used on the GPU, by whomever, `joules` what the GPU drew."""

    memory_bytes: int = 0
    gpu_memory_bytes: int | None = None
    joules: float | None = None


def gpu_library() -> Any:
    """The module pynvml, ready to be asked; None where there is no NVIDIA driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001  not installed, no driver, no rights: there is no GPU to ask
        return None
    return pynvml


def first_gpu(nvml: Any) -> Any:
    """NVML's handle of the GPU that CUDA calls 0: NVML does not know CUDA_VISIBLE_DEVICES. None when there is none."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip()
    if named.startswith(("GPU-", "MIG-")):
        return _answer(nvml, "nvmlDeviceGetHandleByUUID", named)
    return _answer(nvml, "nvmlDeviceGetHandleByIndex", int(named) if named.isdecimal() else 0)


def gpu_name(nvml: Any) -> str | None:
    """Of the GPU that CUDA calls 0, as NVML says it; None when there is none."""
    name = _answer(nvml, "nvmlDeviceGetName", first_gpu(nvml))
    return None if name is None else str(name)


def _answer(nvml: Any, question: str, about: Any) -> Any:
    try:
        return getattr(nvml, question)(about)
    except Exception:  # noqa: BLE001  no such card, or a card or a container that does not say
        return None


@contextlib.contextmanager
def metered(nvml: Any = None) -> Iterator[Taken]:
    """What is run inside; filled in when it is over. With `nvml` (see gpu_library) the first GPU's share too."""
    taken = Taken()
    with contextlib.suppress(OSError):
        _CLEAR.write_text(_RESET_PEAK)
    gpu = _Gpu(nvml) if nvml is not None else None
    try:
        yield taken
    finally:
        taken.memory_bytes = peak_memory_bytes()
        if gpu is not None:
            taken.joules, taken.gpu_memory_bytes = gpu.stop()


def peak_memory_bytes() -> int:
    """Of this process: since it started, or since `metered` began."""
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _Gpu:
    """Samples power and memory in a thread. Energy is the card's own counter (Volta and later), else the integral of
    its power."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._handle = first_gpu(nvml)
        self._joules = 0.0
        self._sampled = False
        self._memory: int | None = None
        self._over = threading.Event()
        self._began = time.monotonic()  # the thread may begin later
        self._counter = self._asked("nvmlDeviceGetTotalEnergyConsumption")
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> tuple[float | None, int | None]:
        self._over.set()
        self._thread.join()
        counter = self._asked("nvmlDeviceGetTotalEnergyConsumption")  # millijoules since the driver was loaded
        if counter is not None and self._counter is not None:
            return (counter - self._counter) / 1000, self._memory
        return self._joules if self._sampled else None, self._memory

    def _sample(self) -> None:
        before = self._began
        while True:
            last = self._over.wait(SAMPLE_SECONDS)
            now = time.monotonic()
            if (power := self._asked("nvmlDeviceGetPowerUsage")) is not None:  # milliwatts
                self._joules += power / 1000 * (now - before)
                self._sampled = True
            if (memory := self._asked("nvmlDeviceGetMemoryInfo")) is not None:
                self._memory = max(self._memory or 0, int(memory.used))
            before = now
            if last:
                return

    def _asked(self, question: str) -> Any:
        return _answer(self._nvml, question, self._handle)
