"""What meters of this machine there are: NVML counts what its GPUs draw, RAPL what its processors and memory do."""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import psutil
import pynvml

#: where Linux shows RAPL; only root may read the counters since 2020 (CVE-2020-8694), unless somebody allowed it
POWERCAP = Path("/sys/class/powercap")
#: zones of it that are added up: a package holds its cores, and not the memory beside them
RAPL_ZONES = ("package", "dram")


class Meter(Protocol):
    """Energy that only grows, in joules, from some moment on."""

    name: str

    def joules(self) -> float | None:
        """None: it cannot be read."""
        ...


class Rapl:
    """The processors' own counters, in microjoules that wrap around."""

    name = "RAPL"

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if _is_counted(zone)]
        self._last: dict[Path, int] = {}
        self._microjoules = 0

    def joules(self) -> float | None:
        if not self._zones:
            return None
        try:
            counts = {zone: _number(zone / "energy_uj") for zone in self._zones}
            for zone, count in counts.items():
                grown = count - self._last.get(zone, count)
                self._microjoules += grown if grown >= 0 else grown + _number(zone / "max_energy_range_uj")
        except (OSError, ValueError):
            return None
        self._last = counts
        return self._microjoules / 1e6


def _is_counted(zone: Path) -> bool:
    with suppress(OSError):
        return (zone / "name").read_text(encoding="ascii").startswith(RAPL_ZONES)
    return False


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


class Nvml:
    """All GPUs of this machine. Where one has no counter (before Volta), its power is added up as often as it is asked.

    `nvml` is the module pynvml, or what behaves like it.
    """

    name = "NVML"

    def __init__(self, nvml: Any = pynvml) -> None:
        self._nvml = nvml
        self._handles: Sequence[Any] = ()
        self._counted: dict[int, float] = {}  # joules of a GPU without a counter
        self._asked_at: dict[int, float] = {}
        with suppress(nvml.NVMLError):
            nvml.nvmlInit()
            self._handles = [nvml.nvmlDeviceGetHandleByIndex(one) for one in range(nvml.nvmlDeviceGetCount())]

    def joules(self) -> float | None:
        try:
            return sum(self._of(number, one) for number, one in enumerate(self._handles)) if self._handles else None
        except self._nvml.NVMLError:
            return None

    def busy(self) -> float:
        """How busy the busiest GPU has been in the last second at most, from 0 to 1; 0 where none says so."""
        found = 0.0
        for one in self._handles:
            with suppress(self._nvml.NVMLError):
                found = max(found, self._nvml.nvmlDeviceGetUtilizationRates(one).gpu / 100)
        return found

    def _of(self, number: int, handle: Any) -> float:
        if number not in self._counted:
            with suppress(self._nvml.NVMLError):
                return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        watts, now = self._nvml.nvmlDeviceGetPowerUsage(handle) / 1000, time.monotonic()
        seconds = now - self._asked_at.get(number, now)
        self._asked_at[number] = now
        self._counted[number] = self._counted.get(number, 0.0) + watts * seconds
        return self._counted[number]


class Processors:
    """How busy this machine's processors have been since they were asked last."""

    def __init__(self) -> None:
        psutil.cpu_percent()  # its first answer means nothing

    def cores(self) -> float:
        """Processors' worth of work: 1.5 is one and a half of them."""
        return float(psutil.cpu_percent()) / 100 * (psutil.cpu_count() or 1)
