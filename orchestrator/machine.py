"""What this machine is: its GPU or processor by name, and the power it may draw."""

import platform
from contextlib import suppress
from functools import cache
from pathlib import Path

import pynvml


@cache
def device() -> tuple[str, float | None]:
    """The first GPU's name and power limit in watts by NVML; without a GPU the processor's name and None."""
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(0)
            watts: float | None = None
            with suppress(pynvml.NVMLError):
                watts = pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000
            return str(pynvml.nvmlDeviceGetName(handle)), watts
        finally:
            pynvml.nvmlShutdown()
    return processor(), None


def processor() -> str:
    """The processor's model name, as the kernel gives it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
