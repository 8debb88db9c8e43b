"""cv_resnet18_ocr-detection: checkpoints by their key names, the published pre- and post-processing, lines found."""

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from inference import images, models
from inference.backends import Floats
from inference.backends.ort import OrtRuntime
from inference.detection import Sizing
from inference.models import dbnet
from inference.models.weights import WeightsError

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'halve[torch]'")

from inference.backends.dbnet import THRESHOLD_HEAD, DbNet, load  # noqa: E402
from inference.backends.pytorch import TorchRuntime  # noqa: E402
from tests.inference import checkpoints  # noqa: E402

#: names and shapes as ModelScope's source gives them (INNER 256, no index on out2, bias only in the transposed ones)
PUBLISHED = {
    "backbone.conv1.weight": (64, 3, 7, 7),
    "backbone.bn1.running_var": (64,),
    "backbone.layer1.0.conv1.weight": (64, 64, 3, 3),
    "backbone.layer2.0.downsample.0.weight": (128, 64, 1, 1),
    "backbone.layer2.0.downsample.1.weight": (128,),
    "backbone.layer3.1.bn2.bias": (256,),
    "backbone.layer4.0.conv1.weight": (512, 256, 3, 3),
    "decoder.in5.weight": (256, 512, 1, 1),
    "decoder.in2.weight": (256, 64, 1, 1),
    "decoder.out5.0.weight": (64, 256, 3, 3),
    "decoder.out3.0.weight": (64, 256, 3, 3),
    "decoder.out2.weight": (64, 256, 3, 3),
    "decoder.binarize.0.weight": (64, 256, 3, 3),
    "decoder.binarize.1.weight": (64,),
    "decoder.binarize.3.weight": (64, 64, 2, 2),
    "decoder.binarize.3.bias": (64,),
    "decoder.binarize.4.running_mean": (64,),
    "decoder.binarize.6.weight": (64, 1, 2, 2),
    "decoder.binarize.6.bias": (1,),
}
ABSENT = ("decoder.in5.bias", "decoder.out2.0.weight", "decoder.binarize.0.bias", "backbone.fc.weight")


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    return checkpoints.random_state()


def test_parameters_have_the_published_names_and_shapes(state: dict[str, Any]) -> None:
    found = {name: tuple(value.shape) for name, value in state.items()}
    assert {name: found.get(name) for name in PUBLISHED} == PUBLISHED
    assert not set(ABSENT) & set(found)
    assert not any(name.startswith(THRESHOLD_HEAD) for name in DbNet().state_dict())
    weights = sum(value.numel() for value in DbNet().parameters())
    assert (round(weights / 1e6, 2), round(sum(p.numel() for p in DbNet(training=True).parameters()) / 1e6, 2)) == (
        12.18,
        12.34,
    )


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "model.module."])
def test_any_prefix_is_stripped_and_the_threshold_head_dropped(
    state: dict[str, Any], tmp_path: Path, prefix: str
) -> None:
    loaded = load(checkpoints.written(state, tmp_path, prefix=prefix))
    assert len(loaded.dropped) == sum(name.startswith(THRESHOLD_HEAD) for name in state) > 10
    assert loaded.unexpected == ()
    for name, value in loaded.network.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_wrapped_checkpoint_is_opened(state: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "final.pt")
    assert torch.equal(load(tmp_path / "final.pt").network.decoder.in5.weight, state["decoder.in5.weight"])


def test_missing_unexpected_and_misshapen_parameters_are_named(
    state: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    less = {name: value for name, value in state.items() if name != "decoder.out2.weight"}
    with pytest.raises(WeightsError, match=r"1 of \d+ parameters are missing, decoder\.out2\.weight"):
        load(checkpoints.written(less, tmp_path))
    with pytest.raises(WeightsError, match=r"decoder\.in5\.weight is \(2, 2\), not \(256, 512, 1, 1\)"):
        load(checkpoints.written(state | {"decoder.in5.weight": torch.zeros(2, 2)}, tmp_path))
    more = checkpoints.written(state | {"backbone.fc.weight": torch.zeros(2)}, tmp_path)
    assert load(more).unexpected == ("backbone.fc.weight",)
    with caplog.at_level(logging.WARNING):
        dbnet.onnx_of(more)
    assert "1 parameters belong to nothing: backbone.fc.weight" in caplog.text


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"\x80\x02."])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pytorch_model.pt").write_bytes(content)
    with pytest.raises(WeightsError, match="not a checkpoint"):
        load(tmp_path / "pytorch_model.pt")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"x": pytest.approx}, tmp_path / "pytorch_model.pt")
    with pytest.raises(WeightsError, match="not a checkpoint"):
        load(tmp_path / "pytorch_model.pt")


def test_without_a_checkpoint_one_line_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALVE_HOME", str(tmp_path))
    with pytest.raises(WeightsError) as refused:
        models.load(dbnet.NAME, accelerator="cpu")
    line = str(refused.value)
    assert "\n" not in line
    assert f"pytorch_model.pt and configuration.json of ModelScope's {dbnet.PUBLISHED_AS}" in line
    assert line.endswith(f"into {tmp_path}/models/{dbnet.NAME}")


@pytest.mark.parametrize("shape", [(1, 3, 640, 640), (2, 3, 96, 224)], ids=str)
def test_both_backends_answer_as_the_network(state: dict[str, Any], tmp_path: Path, shape: tuple[int, ...]) -> None:
    checkpoint = checkpoints.written(state, tmp_path)
    batch = np.random.default_rng(0).uniform(-0.5, 0.6, shape).astype(np.float32)
    with torch.inference_mode():
        expected = load(checkpoint).network(torch.from_numpy(batch)).numpy()
    assert expected.shape == (shape[0], 1, *shape[2:])
    assert expected.std() > 0.01
    model = dbnet.onnx_of(checkpoint)
    for runtime in (OrtRuntime(accelerator="cpu"), TorchRuntime(accelerator="cpu")):
        assert np.abs(runtime.open(model, batch[:1, :, :64, :64].copy()).run(batch) - expected).max() < 1e-5


class Looking:
    """A session that finds nothing and keeps what it was shown; a runtime that opens it."""

    provider, fallback, precision, on_accelerator = "fake", None, "fp32", False
    metadata: dict[str, str] = {}  # noqa: RUF012

    def open(self, model: bytes, sample: Floats) -> "Looking":
        return self

    def run(self, batch: Floats) -> Floats:
        self.seen = batch
        return np.zeros((len(batch), 1, *batch.shape[2:]), np.float32)


def configured(folder: Path, **inference: Any) -> None:
    model = {"backbone": "resnet18", "model_type": "DBNet", "inference_kwargs": inference}
    (folder / "configuration.json").write_text(json.dumps({"model": model}))


def test_pixels_are_prepared_as_published(state: dict[str, Any], tmp_path: Path) -> None:
    checkpoints.written(state, tmp_path)
    configured(tmp_path, image_short_side=320)
    looking = Looking()
    page = np.random.default_rng(2).integers(0, 256, (500, 901, 3), np.uint8)
    dbnet.detector(looking, tmp_path).find([page])  # type: ignore[arg-type]
    assert looking.seen.shape == (1, 3, 320, 608)  # 901 * 320 / 500 = 576.6, rounded up to 32
    resized = cv2.resize(page, (608, 320)).astype(np.float32)
    expected = (resized - np.array([123.68, 116.78, 103.94], np.float32)) / 255
    assert np.allclose(looking.seen[0].transpose(1, 2, 0), expected, atol=1e-6)
    for sizing, shape in (
        (Sizing(fixed=(640, 640)), (640, 640)),
        (Sizing(fixed=(800, 800)), (800, 800)),
        (Sizing(shorter=736, grow_only=False, round_up=True, longest=1024), (576, 1024)),
    ):
        dbnet.detector(looking, tmp_path, sizing=sizing).find([page])  # type: ignore[arg-type]
        assert looking.seen.shape[2:] == shape


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param({"model": {"backbone": "resnet50"}}, "model.backbone is resnet50; only resnet18", id="backbone"),
        pytest.param({"model": {"model_type": "SegLink++"}}, "model.model_type is SegLink", id="type"),
        pytest.param({"model": {"inference_kwargs": {"thresh": "low"}}}, "thresh is 'low'", id="threshold"),
        pytest.param([], "no section `model`", id="shape"),
    ],
)
def test_a_configuration_of_another_network_is_refused(
    state: dict[str, Any], tmp_path: Path, content: Any, reason: str
) -> None:
    checkpoints.written(state, tmp_path)
    (tmp_path / "configuration.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=reason):
        dbnet.detector(Looking(), tmp_path)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_network_trained_on_drawn_lines_finds_lines_and_pp_ocr_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = checkpoints.trained(80)
    finally:
        torch.set_num_threads(threads)
    folder = tmp_path / "models" / dbnet.NAME
    checkpoints.written(network.state_dict(), folder)
    configured(folder, image_short_side=checkpoints.SIDE, thresh=0.3)
    monkeypatch.setenv("HALVE_HOME", str(tmp_path))
    engine = models.load(dbnet.NAME, accelerator="cpu")
    assert engine.model == dbnet.NAME
    rng = np.random.default_rng(99)
    lines = found = boxes = characters = 0
    for _ in range(12):
        drawn = checkpoints.sample(rng)
        reading = engine.read([drawn.page])[0]
        there = engine.detector.find([drawn.page])[0]
        boxes += len(there)
        lines += len(drawn.lines)
        characters += sum(line.text in checkpoints.TEXTS for line in reading.lines)
        for line in drawn.lines:
            found += any(overlap(line, box) > 0.5 for box in there)
    assert lines > 20
    assert found >= 0.9 * lines
    assert boxes <= 1.1 * lines
    assert characters >= 0.5 * lines, "small letters, but most are read"
    assert engine.read([np.full((90, 150, 3), 240, np.uint8)])[0].lines == ()


def overlap(line: tuple[int, int, int, int], box: np.ndarray) -> float:
    left, top, right, bottom = line
    (x0, y0), (x1, y1) = box.min(axis=0), box.max(axis=0)
    shared = max(0.0, min(x1, right) - max(x0, left)) * max(0.0, min(y1, bottom) - max(y0, top))
    return float(shared / ((x1 - x0) * (y1 - y0) + (right - left) * (bottom - top) - shared))


def test_shapes_of_any_kind_go_through(state: dict[str, Any], tmp_path: Path) -> None:
    checkpoints.written(state, tmp_path)
    found = dbnet.detector(OrtRuntime(accelerator="cpu"), tmp_path, sizing=Sizing(shorter=64, grow_only=False))
    for height, width in ((1, 1), (1, 30), (30, 2), (70, 31)):
        assert found.find([np.full((height, width, 3), 255, np.uint8)])[0].shape[1:] == (4, 2)


def test_decoding_an_image_gives_what_the_network_expects(pages: Path) -> None:
    """B, G, R: the published pipeline turns RGB round before it takes the means off."""
    page = images.decode((pages / "packaging.png").read_bytes())
    assert page[2, 2].tolist() == [0xD8, 0xF0, 0xDF]
