"""The torch backend answers as onnxruntime does, number by number and line by line."""

from pathlib import Path

import numpy as np
import pytest

from inference import images, models
from inference.backends import NoAccelerator
from inference.engine import Engine
from inference.models import graph, ppocr, weights
from inference.models.graph import Graph, Node, Port
from inference.models.weights import WeightsError

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'halve[torch]'")

from inference.backends.ort import OrtRuntime  # noqa: E402
from inference.backends.pytorch import CPU, TorchRuntime  # noqa: E402

CLOSE = 1e-4  # of a probability; measured: at most 1.4e-5
REDUCED_CLOSE = 0.15  # bf16; measured: 0.07 of a character's probability, 0.011 of a pixel's
CASES = [
    pytest.param(ppocr.DETECTOR, (2, 3, 320, 256), id="detector"),
    pytest.param(ppocr.DETECTOR, (1, 3, 32, 480), id="detector-flat"),
    pytest.param(ppocr.RECOGNISER, (3, 3, 48, 321), id="recogniser"),
    pytest.param(ppocr.ORIENTER, (6, 3, 48, 192), id="orienter"),
]


@pytest.mark.parametrize(("file", "shape"), CASES)
def test_the_models_answer_alike(file: tuple[str, str], shape: tuple[int, ...]) -> None:
    model = weights.flushed(weights.read(ppocr.PACKAGE, *file))
    batch = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    expected = OrtRuntime(accelerator="cpu").open(model, batch).run(batch)
    session = TorchRuntime(accelerator="cpu").open(model, batch[:1])
    assert np.abs(session.run(batch) - expected).max() < CLOSE
    assert np.array_equal(session.run(batch), session.run(batch)), "a run leaves nothing behind"
    reduced = TorchRuntime(accelerator="cpu", precision="bf16").open(model, batch[:1]).run(batch)
    assert 1e-7 < np.abs(reduced - expected).max() < REDUCED_CLOSE


def test_pages_read_the_same(engine: Engine, pages: Path) -> None:
    other = models.load(accelerator="cpu", backend="torch")
    assert (other.provider, other.on_accelerator, other.fallback) == (CPU, False, None)
    for name in ("nameplate.png", "packaging.png", "screenshot.png"):
        page = images.decode((pages / name).read_bytes())
        expected, got = engine.read([page])[0].lines, other.read([page])[0].lines
        assert [line.text for line in got] == [line.text for line in expected]
        assert [line.box for line in got] == [line.box for line in expected]
        assert [line.score for line in got] == pytest.approx([line.score for line in expected], abs=CLOSE)


def test_a_network_without_input_is_refused() -> None:
    nothing = Graph(nodes=(), constants={}, inputs=(), outputs=(), opset=13)
    with pytest.raises(WeightsError, match="no input or no output"):
        TorchRuntime(accelerator="cpu").open(graph.serialised(nothing), np.zeros(1, np.float32))


def test_an_operation_that_is_not_known_is_named() -> None:
    port = Port(name="x", kind="float32", shape=("N",))
    nodes = (Node(op="NonZero", inputs=("x",), outputs=("y",)),)
    odd = Graph(nodes=nodes, constants={}, inputs=(port,), outputs=(Port(name="y", kind="int64", shape=()),), opset=13)
    with pytest.raises(WeightsError, match="no NonZero.*use onnxruntime"):
        TorchRuntime(accelerator="cpu").open(graph.serialised(odd), np.zeros(1, np.float32))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_without_cuda_the_cpu_runs_and_that_is_said() -> None:
    runtime = TorchRuntime(accelerator="auto")
    assert (runtime.provider, runtime.on_accelerator) == (CPU, False)
    assert "CUDA was tried and did not run" in (runtime.fallback or "")
    with pytest.raises(NoAccelerator, match="CUDA does not run here"):
        TorchRuntime(accelerator="cuda")


def test_a_precision_that_a_backend_lacks_is_refused() -> None:
    with pytest.raises(models.UnknownModel, match="use the openvino or torch backend"):
        models.load(backend="onnxruntime", precision="bf16")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(("file", "shape"), CASES)
def test_on_a_gpu_the_models_answer_alike(file: tuple[str, str], shape: tuple[int, ...], precision: str) -> None:
    model = weights.flushed(weights.read(ppocr.PACKAGE, *file))
    batch = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    expected = TorchRuntime(accelerator="cpu").open(model, batch).run(batch)
    runtime = TorchRuntime(accelerator="cuda", precision=precision)  # type: ignore[arg-type]
    assert np.abs(runtime.open(model, batch[:1]).run(batch) - expected).max() < REDUCED_CLOSE
