"""The accelerator is the one that a session was really given."""

import onnxruntime
import pytest

from inference import models
from inference.backends.ort import CPU, CUDA, NoAccelerator


def cuda_runs() -> bool:
    try:
        return models.load(accelerator="cuda").provider == CUDA
    except NoAccelerator:
        return False


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


@pytest.mark.gpu
def test_on_a_gpu_the_session_is_on_cuda() -> None:
    assert cuda_runs()
