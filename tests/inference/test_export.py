"""halve export: a file for any size, compared with torch before it is kept; what half precision costs is measured."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from inference import export, precision
from inference.backends.ort import OrtRuntime
from inference.models import dbnet, graph, ppocr, weights

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'halve[torch]'")

from inference.backends.dbnet import load  # noqa: E402
from tests.inference import checkpoints  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.written(checkpoints.random_state(), tmp_path_factory.mktemp("checkpoint"))


def test_the_file_takes_any_batch_and_size(checkpoint: Path, tmp_path: Path) -> None:
    found = export.export(dbnet.NAME, tmp_path / "d.onnx", checkpoint=checkpoint)
    content = (tmp_path / "d.onnx").read_bytes()
    assert (found.bytes, found.precision) == (len(content), "fp32")
    assert found.loss.largest < 1e-5
    assert found.loss.crossed == 0
    read = graph.parsed(content)
    assert [port.shape for port in (*read.inputs, *read.outputs)] == [("N", 3, "H", "W"), ("N", 1, "H", "W")]
    assert not any(name.startswith("decoder.thresh") for name in read.constants)
    network = load(checkpoint).network
    session = OrtRuntime(accelerator="cpu").open(content, np.zeros((1, 3, 32, 32), np.float32))
    for shape in ((3, 3, 64, 160), (1, 3, 416, 96)):
        batch = np.random.default_rng(1).uniform(-0.5, 0.5, shape).astype(np.float32)
        with torch.inference_mode():
            assert np.abs(network(torch.from_numpy(batch)).numpy() - session.run(batch)).max() < 1e-5


def test_half_precision_is_half_the_size_and_its_loss_is_told(checkpoint: Path, tmp_path: Path) -> None:
    full = export.export(dbnet.NAME, tmp_path / "full.onnx", checkpoint=checkpoint)
    half = export.export(dbnet.NAME, tmp_path / "half.onnx", checkpoint=checkpoint, fp16=True)
    assert half.precision == "fp16"
    assert half.bytes < 0.51 * full.bytes
    assert 1e-6 < half.loss.largest < 0.02
    assert half.loss.mean < half.loss.largest
    assert half.loss.crossed is not None
    assert half.loss.crossed < 0.01


@pytest.mark.parametrize("file", [ppocr.DETECTOR, ppocr.RECOGNISER, ppocr.ORIENTER], ids=lambda file: file[0])
def test_every_model_can_be_halved_and_blocked_operations_are_not(file: tuple[str, str]) -> None:
    whole = graph.parsed(weights.flushed(weights.read(ppocr.PACKAGE, *file)))
    sample = np.random.default_rng(0).uniform(-1, 1, (2, 3, 48, 192)).astype(np.float32)
    if file == ppocr.DETECTOR:
        sample = sample[:, :, :32]
    runtime = OrtRuntime(accelerator="cpu")
    reference = runtime.open(graph.serialised(whole), sample)
    half = runtime.open(graph.serialised(precision.halved(whole)), sample)
    everything = frozenset(node.op for node in whole.nodes)
    untouched = runtime.open(graph.serialised(precision.halved(whole, blocked=everything)), sample)
    assert 1e-6 < precision.loss(reference, half, [sample]).largest < 0.05
    assert precision.loss(reference, untouched, [sample]).largest < 1e-5


def test_loss_counts_what_changes_side() -> None:
    class Fixed:
        metadata: dict[str, str] = {}  # noqa: RUF012

        def __init__(self, values: list[float]) -> None:
            self._values = np.array(values, np.float32)

        def run(self, batch: np.ndarray) -> np.ndarray:
            return self._values

    found = precision.loss(Fixed([0.1, 0.4, 0.6, 0.5]), Fixed([0.1, 0.6, 0.6, 0.5]), [np.zeros(1, np.float32)], 0.5)
    assert found == precision.Loss(largest=pytest.approx(0.2), mean=pytest.approx(0.05), crossed=0.25)


def test_the_command(checkpoint: Path, tmp_path: Path) -> None:
    def halve(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", "export", *words], capture_output=True, text=True, timeout=120
        )

    done = halve(dbnet.NAME, str(tmp_path / "d.onnx"), "--checkpoint", str(checkpoint), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bytes"] == (tmp_path / "d.onnx").stat().st_size
    refused = halve(dbnet.NAME, str(tmp_path / "e.onnx"), "--checkpoint", str(tmp_path / "none.pt"))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "no checkpoint here" in refused.stderr
    assert not (tmp_path / "e.onnx").exists()
