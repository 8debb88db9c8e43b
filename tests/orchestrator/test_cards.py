"""Which set of packages a card gets, and that the set for old ones is one that pip resolves."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator import cards
from orchestrator.cards import CUDA12_SET, NEWEST_SET, Capability, NoDriver

ROOT = Path(__file__).resolve().parents[2]
#: what pip resolved the extras gpu and torch to, for Python 3.11 on Linux x86-64, with the set for old cards
RECORDED = Path(__file__).with_name("cuda12_resolution.json")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 17, 12, 5)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    split = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {package.lower().replace("_", "-"): version for package, version in split}


class Nvml:
    """NVML of a machine with these cards."""

    def __init__(self, *capabilities: Capability, cuda: int = 12040) -> None:
        self.capabilities, self.cuda = capabilities, cuda

    def nvmlInit(self) -> None: ...

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return self.cuda

    def nvmlSystemGetDriverVersion(self) -> str:
        return "550.54.15"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.capabilities)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> Capability:
        return self.capabilities[handle]

    def nvmlDeviceGetName(self, handle: int) -> str:
        return f"card {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> object:
        return SimpleNamespace(total=6 * 2**30)


def test_a_driver_says_what_its_cards_are() -> None:
    found = cards.driver(Nvml((6, 1), (8, 6)))
    assert (found.version, found.cuda) == ("550.54.15", (12, 4))
    assert [(card.capability, card.precisions) for card in found.cards] == [
        ((6, 1), ("fp32",)),
        ((8, 6), ("fp32", "fp16", "bf16")),
    ]


def test_without_a_driver_the_reason_is_one_line() -> None:
    with pytest.raises(NoDriver, match="^no attribute|has no attribute"):
        cards.driver(object())


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ([], NEWEST_SET),
        ([(6, 1)], CUDA12_SET),  # GTX 1060
        ([(7, 0)], CUDA12_SET),  # V100
        ([(7, 5)], NEWEST_SET),  # T4
        ([(8, 6)], NEWEST_SET),  # RTX 3060
        ([(7, 0), (8, 6)], CUDA12_SET),  # serves both
        ([(6, 1), (12, 0)], NEWEST_SET),  # neither serves both: the newer card
    ],
)
def test_the_set_for_these_cards(capabilities: list[Capability], expected: str) -> None:
    assert cards.constraints(capabilities) == expected
    given = ",".join(f"{major}.{minor}" for major, minor in capabilities)
    if given:
        environment = os.environ | {"CAPABILITY": given, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "orchestrator.cards"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=True)
        assert done.stdout == f"{expected}\n"


@pytest.mark.parametrize(("accelerator", "asks"), [("gpu", True), ("cpu", False)])
def test_make_installs_with_that_set(accelerator: str, asks: bool) -> None:
    command = ["make", "-n", "-B", "demo", f"ACCELERATOR={accelerator}", "CAPABILITY=6.1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250, check=True)
    install = next(line for line in done.stdout.splitlines() if f"-e '.[{accelerator}]'" in line)
    asked = re.search(r'-c "\$\((CAPABILITY=6\.1 \S+/python -m orchestrator\.cards)\)"', install)
    assert bool(asked) == asks
    assert asks or '-c "constraints.txt"' in install


def test_the_set_for_old_cards_is_the_other_one_but_for_what_cuda_decides() -> None:
    old, newest = pins(CUDA12_SET), pins(NEWEST_SET)
    differ = {package for package in old.keys() & newest.keys() if old[package] != newest[package]}
    assert differ == {"torch"}
    own = old.keys() - newest.keys()
    assert {package for package in own if not package.startswith("nvidia-")} <= {
        "onnxruntime-gpu",
        "triton",
        "setuptools",
    }
    assert "onnxruntime" not in old  # both wheels own that module


def test_it_is_what_pip_resolved_with_wheels_for_python_3_11() -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    pinned = pins(CUDA12_SET)
    by_name = {name.replace("_", "-"): one for name, one in recorded.items()}
    assert {"torch", "onnxruntime-gpu", "nvidia-cudnn-cu12", "rapidocr"} <= by_name.keys()
    for name, one in by_name.items():
        assert pinned.get(name, one["version"]) == one["version"], name
        assert re.search(r"-(cp311|cp3\d+-abi3|py3|py2\.py3)-", one["wheel"]), one["wheel"]
    cuda = {name for name in by_name if name.startswith("nvidia-")} - {"nvidia-ml-py"}
    assert cuda
    assert all(name.endswith("-cu12") and name in pinned for name in cuda)


@pytest.mark.slow
def test_pip_still_resolves_it(tmp_path: Path) -> None:
    """Asks the registry for what its packages say of themselves; nothing is downloaded but that."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = tmp_path / "wanted.txt"
    wanted.write_text("\n".join([*project["dependencies"], *extras["gpu"], *extras["torch"]]), encoding="utf-8")
    report = tmp_path / "report.json"
    options = ["--dry-run", "--ignore-installed", "--quiet", "--report", report, "--target", tmp_path / "nowhere"]
    options += ["--python-version", "3.11", "--only-binary=:all:", "--retries", "0", "--timeout", "10"]
    options += [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "install", *options, "-c", ROOT / CUDA12_SET, "-r", wanted]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("the registry did not answer in time")
    if done.returncode and "conflict" not in done.stderr.lower():
        pytest.skip(f"no registry to ask: {done.stderr.strip().splitlines()[-1][:200]}")
    assert done.returncode == 0, done.stderr
    found = {
        one["metadata"]["name"].lower(): one["metadata"]["version"] for one in json.loads(report.read_text())["install"]
    }
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    assert {name: found.get(name) for name in ("torch", "onnxruntime-gpu", "nvidia-cudnn-cu12")} == {
        name: recorded[name]["version"] for name in ("torch", "onnxruntime-gpu", "nvidia-cudnn-cu12")
    }
