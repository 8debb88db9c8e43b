"""The accelerator is the one that a session was really given, and ran on."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from inference import models
from inference.backends.ort import CHANNELS_AT_ONCE, CPU, CUDA, NoAccelerator, OrtRuntime, settings
from inference.models import ppocr

SAMPLE = np.zeros((1, 3, 4, 4), np.float32)
VERSION = tuple(map(int, onnxruntime.__version__.split(".")[:2]))


@dataclass
class FakeSession:
    """Has the providers it was given, and fails on CUDA when told to, as an old card does at its first kernel."""

    providers: list[str]
    broken_on_cuda: bool

    def get_providers(self) -> list[str]:
        return self.providers

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="x")]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="y")]

    def run(self, outputs: list[str], inputs: dict[str, Any]) -> list[Any]:
        if self.broken_on_cuda and self.providers[0] == CUDA:
            raise RuntimeError("no kernel image is available for execution on the device")
        return [inputs["x"]]


@dataclass
class FakeMachine:
    """A build that offers CUDA, on a machine where it is given, or not, or breaks."""

    gives_cuda: bool
    broken_on_cuda: bool = False
    sessions: int = 0

    def create(self, model: bytes, providers: list[tuple[str, dict[str, str]]], threads: int) -> FakeSession:
        self.sessions += 1
        names = [name for name, _ in providers]
        return FakeSession(names if self.gives_cuda else [CPU], self.broken_on_cuda)


@pytest.mark.parametrize(
    ("machine", "provider", "reason"),
    [
        pytest.param(FakeMachine(gives_cuda=True), CUDA, None, id="cuda"),
        pytest.param(
            FakeMachine(gives_cuda=False), CPU, "the session was given CPUExecutionProvider", id="silent-fallback"
        ),
        pytest.param(FakeMachine(gives_cuda=True, broken_on_cuda=True), CPU, "no kernel image", id="card-too-old"),
    ],
)
def test_the_session_is_believed(machine: FakeMachine, provider: str, reason: str | None) -> None:
    runtime = OrtRuntime(create=machine.create)
    runtime.open(b"", SAMPLE)
    assert runtime.provider == provider
    assert (runtime.fallback is None) == (reason is None)
    assert (reason or "") in (runtime.fallback or "")
    before = machine.sessions
    runtime.open(b"", SAMPLE)
    assert machine.sessions == before + 1, "the choice is made once"


def test_cuda_by_name_is_cuda_or_nothing() -> None:
    with pytest.raises(NoAccelerator, match="no kernel image"):
        OrtRuntime(accelerator="cuda", create=FakeMachine(gives_cuda=True, broken_on_cuda=True).create).open(
            b"", SAMPLE
        )


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="a CUDA build")
def test_without_cuda_the_cpu_runs_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    engine = models.load(accelerator="auto")
    assert engine.provider == CPU
    assert engine.fallback is not None
    assert "CUDA" in engine.fallback
    assert "the CPU runs the models" in caplog.text
    with pytest.raises(NoAccelerator, match="CUDA does not run here"):
        models.load(accelerator="cuda")


def test_a_cpu_that_was_asked_for_is_no_fallback() -> None:
    engine = models.load(accelerator="cpu")
    assert (engine.provider, engine.fallback) == (CPU, None)


@pytest.mark.skipif(VERSION < (1, 31), reason="an older onnxruntime need not know the setting")
def test_wide_layers_are_added_up_at_once_and_answer_alike() -> None:
    """In another order, so not bit by bit: were it so, the runtime would not know the setting any more."""
    batch = np.random.default_rng(0).uniform(-1, 1, (1, 3, 160, 96)).astype(np.float32)
    model = ppocr.prepared(ppocr.DETECTOR)
    options = settings(1)
    assert options.get_session_config_entry(CHANNELS_AT_ONCE) == "512"
    options.add_session_config_entry(CHANNELS_AT_ONCE, "128")  # the runtime's own
    plain = onnxruntime.InferenceSession(model, options, [CPU]).run(None, {"x": batch})[0]
    ours = OrtRuntime(accelerator="cpu").open(model, batch).run(batch)
    assert 0 < np.abs(ours - plain).max() < 5e-6


@pytest.mark.gpu
def test_on_a_gpu_the_session_is_on_cuda() -> None:
    assert models.load(accelerator="cuda").provider == CUDA
