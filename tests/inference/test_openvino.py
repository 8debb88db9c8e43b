"""The OpenVINO backend answers as onnxruntime does; in bfloat16 it reads as well, and says when it runs otherwise."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from inference import bench, images, models, runner
from inference.agreement import agreement
from inference.backends import NoAccelerator
from inference.engine import Engine
from inference.models import ppocr, weights
from inference.models.weights import WeightsError

openvino = pytest.importorskip("openvino", reason="openvino is not installed: pip install 'halve[openvino]'")

from inference.backends.openvino import PROVIDER, OpenVinoRuntime  # noqa: E402
from inference.backends.ort import OrtRuntime  # noqa: E402

CLOSE = 1e-4  # of a probability; measured: at most 2e-5
CASES = [
    pytest.param(ppocr.DETECTOR, (2, 3, 320, 256), id="detector"),
    pytest.param(ppocr.DETECTOR, (1, 3, 32, 480), id="detector-flat"),
    pytest.param(ppocr.RECOGNISER, (3, 3, 48, 321), id="recogniser"),
    pytest.param(ppocr.ORIENTER, (6, 3, 48, 192), id="orienter"),
]
LEAST_CHARACTERS = 0.98  # bf16 against fp32; measured: 0.99 on photographs, 1.0 on the rendered pages
#: twenty detector sizes in all; without giving memory back it is some 3000 MiB
MOST_GROWTH_BYTES = 900 * 2**20


def model(file: tuple[str, str]) -> bytes:
    return weights.flushed(weights.read(ppocr.PACKAGE, *file))


@pytest.mark.parametrize(("file", "shape"), CASES)
def test_the_models_answer_alike(file: tuple[str, str], shape: tuple[int, ...]) -> None:
    batch = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    reference = OrtRuntime(accelerator="cpu").open(model(file), batch)
    session = OpenVinoRuntime().open(model(file), batch[:1])
    expected = reference.run(batch)
    first = session.run(batch)
    assert np.abs(first - expected).max() < CLOSE
    session.run(batch[:, :, :, :32])
    assert np.array_equal(session.run(batch), first), "a run leaves nothing behind"
    assert dict(session.metadata) == dict(reference.metadata)


def test_calls_at_once_do_not_meet() -> None:
    batches = [np.random.default_rng(i).uniform(-1, 1, (1, 3, 48, 320 + 8 * i)).astype(np.float32) for i in range(4)]
    session = OpenVinoRuntime().open(model(ppocr.RECOGNISER), batches[0])
    alone = [session.run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(session.run, batches * 5))
    assert all(np.array_equal(together[i], alone[i % 4]) for i in range(20))


def test_pages_read_the_same(engine: Engine, pages: Path) -> None:
    other = models.load(backend="openvino")
    assert (other.provider, other.precision, other.on_accelerator, other.fallback) == (PROVIDER, "fp32", False, None)
    for name in ("nameplate.png", "packaging.png", "screenshot.png"):
        page = images.decode((pages / name).read_bytes())
        expected, got = engine.read([page])[0].lines, other.read([page])[0].lines
        assert [(line.text, line.box) for line in got] == [(line.text, line.box) for line in expected]
        assert [line.score for line in got] == pytest.approx([line.score for line in expected], abs=CLOSE)


def read(engine: Engine, files: list[bytes]) -> list[list[tuple[str, tuple[tuple[float, float], ...]]]]:
    return [[(line.text, line.box) for line in engine.read([images.decode(file)])[0].lines] for file in files]


def test_bf16_reads_as_well(engine: Engine, pages: Path) -> None:
    files = [(pages / name).read_bytes() for name in ("nameplate.png", "packaging.png", "screenshot.png")]
    files += bench.drawn_pages()
    reduced = models.load(backend="openvino", precision="bf16")
    if reduced.precision != "bf16":
        pytest.skip("this CPU does not compute in bfloat16")
    expected, got = read(engine, files), read(reduced, files)
    assert agreement(expected, got)[1] >= LEAST_CHARACTERS
    truth = bench.drawn_texts()
    assert agreement(truth, got[3:])[1] >= agreement(truth, expected[3:])[1] - 0.002


@pytest.mark.slow
def test_bf16_reads_photographs_as_well(engine: Engine, real_images: Path) -> None:
    files = [path.read_bytes() for path in runner.images_in(real_images)[1::8]]
    reduced = models.load(backend="openvino", precision="bf16")
    if reduced.precision != "bf16":
        pytest.skip("this CPU does not compute in bfloat16")
    assert agreement(read(engine, files), read(reduced, files))[1] >= LEAST_CHARACTERS


class OlderCore:
    """OpenVINO as it is on a CPU that has no bfloat16: it compiles for float32, whatever is asked for."""

    def __init__(self) -> None:
        self._core = openvino.Core()

    def read_model(self, model: bytes) -> Any:
        return self._core.read_model(model)

    def compile_model(self, model: Any, device: str, options: dict[str, Any]) -> Any:
        return self._core.compile_model(model, device, options | {"INFERENCE_PRECISION_HINT": "f32"})


def test_a_cpu_without_bf16_runs_fp32_and_that_is_said() -> None:
    runtime = OpenVinoRuntime(precision="bf16", core=OlderCore())
    engine = ppocr.load(runtime)
    assert (engine.provider, engine.precision) == (PROVIDER, "fp32")
    assert engine.fallback == "bf16 was asked for and this CPU has none: models run in fp32"


def test_sizes_that_keep_changing_do_not_keep_memory() -> None:
    session = OpenVinoRuntime().open(model(ppocr.DETECTOR), np.zeros((1, 3, 64, 64), np.float32))
    before = psutil.Process().memory_info().rss
    for i in range(20):
        session.run(np.zeros((1, 3, 640, 640 + 32 * i), np.float32))
    assert psutil.Process().memory_info().rss - before < MOST_GROWTH_BYTES


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(NoAccelerator, match="use onnxruntime or torch"):
        models.load(backend="openvino", accelerator="cuda")
    with pytest.raises(models.UnknownModel, match="in fp16; use the onnxruntime or torch backend"):
        models.load(backend="openvino", precision="fp16")
    with pytest.raises(WeightsError, match="openvino cannot read the model"):
        OpenVinoRuntime().open(b"no model at all", np.zeros((1, 3, 32, 32), np.float32))
