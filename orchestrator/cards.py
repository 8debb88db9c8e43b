"""The NVIDIA cards of this machine, and which tested set of packages serves them.

    python -m orchestrator.cards      prints the constraints file to install with; the Makefile asks so

Needs nothing but pynvml, because it is asked before anything else is installed.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Capability = tuple[int, int]

NEWEST_SET = "constraints.txt"
CUDA12_SET = "constraints-cuda12.txt"
#: CUDA 13 has no compiler and no libraries for what is older (CUDA 13.0 release notes, "deprecated architectures")
CUDA13_SERVES: Capability = (7, 5)
#: what the wheels of CUDA12_SET hold kernels for: its onnxruntime-gpu from 6.0, its torch from 5.0, both below 10.0
CUDA12_SERVES: Capability = (6, 0)
CUDA12_TORCH_SERVES: Capability = (5, 0)
CUDA12_ENDS: Capability = (10, 0)
#: half precision in products: fast from Volta on, bfloat16 from Ampere on (CUDA C programming guide, "arithmetic")
FP16_PAYS: Capability = (7, 0)
BF16_PAYS: Capability = (8, 0)
DRIVER_FILE = Path("/dev/nvidiactl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One GPU, as NVML describes it."""

    name: str
    capability: Capability
    memory_bytes: int

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that are worth trying."""
        pays = (("fp32", (0, 0)), ("fp16", FP16_PAYS), ("bf16", BF16_PAYS))
        return tuple(name for name, least in pays if self.capability >= least)


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """The NVIDIA driver: its version, the newest CUDA (major, minor) that it runs, and its cards."""

    version: str
    cuda: tuple[int, int]
    cards: tuple[Card, ...]


class NoDriver(Exception):
    """There is no NVIDIA driver to ask. One line with what it said."""


def driver(nvml: Any = None) -> Driver:
    """Raises NoDriver."""
    try:
        if nvml is None:
            import pynvml

            nvml = pynvml
        nvml.nvmlInit()
        number = int(nvml.nvmlSystemGetCudaDriverVersion())  # 12060 is 12.6
        return Driver(
            version=str(nvml.nvmlSystemGetDriverVersion()),
            cuda=(number // 1000, number % 1000 // 10),
            cards=tuple(_card(nvml, i) for i in range(nvml.nvmlDeviceGetCount())),
        )
    except Exception as error:  # noqa: BLE001  NVML's errors, or no pynvml: either way nobody answers
        raise NoDriver(" ".join(str(error).split()) or type(error).__name__) from None


def constraints(capabilities: Sequence[Capability]) -> str:
    """The set that serves these cards: CUDA 12's when one of them needs it and none is too new for it."""
    old = [one for one in capabilities if one < CUDA13_SERVES]
    return CUDA12_SET if old and max(capabilities) < CUDA12_ENDS else NEWEST_SET


def _card(nvml: Any, index: int) -> Card:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Card(
        name=str(nvml.nvmlDeviceGetName(handle)),
        capability=(int(major), int(minor)),
        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
    )


def main() -> None:
    """CAPABILITY=6.1,8.6 in the environment stands for cards that are not in this machine."""
    given = os.environ.get("CAPABILITY", "")
    try:
        if given:
            found = [(int(major), int(minor)) for major, minor in (one.split(".") for one in given.split(","))]
        else:
            found = [card.capability for card in driver().cards]
    except NoDriver as reason:
        found = []
        sys.stderr.write(f"no NVIDIA card answers here ({reason}): taking the newest set\n")
    except ValueError:
        raise SystemExit(f"CAPABILITY={given}: want numbers as 6.1 or 6.1,8.6") from None
    sys.stdout.write(constraints(found) + "\n")


if __name__ == "__main__":
    main()
