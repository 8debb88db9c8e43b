"""Model cards: any pair of ONNX files, and one clear line for what is wrong."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from inference import images, models
from inference.engine import Engine
from inference.models import card, graph, ppocr, weights
from inference.models.weights import WeightsError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """PP-OCR's own files, described as foreign ones."""
    for name, sha256 in (ppocr.DETECTOR, ppocr.RECOGNISER):
        (tmp_path / name).write_bytes(weights.read(ppocr.PACKAGE, name, sha256))
    return tmp_path


def written(folder: Path, **changes: dict[str, Any] | str) -> str:
    content: dict[str, Any] = {
        "name": "pair",
        "detector": {"file": ppocr.DETECTOR[0], "sha256": ppocr.DETECTOR[1]},
        "recogniser": {"file": ppocr.RECOGNISER[0], "sha256": ppocr.RECOGNISER[1]},
    }
    for part, change in changes.items():
        content[part] = content[part] | change if isinstance(change, dict) else change
    (folder / "card.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return str(folder / "card.yaml")


def test_a_card_of_the_same_files_reads_the_same(engine: Engine, folder: Path, pages: Path) -> None:
    described = models.load(written(folder), accelerator="cpu")
    assert described.model == "pair"
    page = images.decode((pages / "nameplate.png").read_bytes())
    expected, got = engine.read([page])[0].lines, described.read([page])[0].lines
    assert [line.text for line in got] == [line.text for line in expected]


def test_built_in_parts_and_a_dictionary_of_its_own(folder: Path, pages: Path) -> None:
    session = models.load(accelerator="cpu").recogniser
    characters = session._alphabet[1:-1]
    (folder / "keys.txt").write_text("\n".join(characters), encoding="utf-8")
    name = written(folder, detector="ppocr", orienter="none", recogniser={"dictionary": "keys.txt"})
    described = models.load(name, accelerator="cpu")
    assert described.orienter is None
    page = images.decode((pages / "nameplate.png").read_bytes())
    assert any(line.text == "三相异步电动机" for line in described.read([page])[0].lines)


def test_the_recogniser_may_say_which_way_up_a_line_stands(folder: Path, pages: Path) -> None:
    described = models.load(written(folder, orienter="recogniser"), accelerator="cpu")
    assert described.orienter is None
    page = images.decode((pages / "nameplate.png").read_bytes())[::-1, ::-1].copy()
    assert any(line.text == "三相异步电动机" for line in described.read([page])[0].lines)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"detector": {"sha256": "0" * 64}}, r"det_small\.onnx: its sha256 is 090f04ab", id="hash"),
        pytest.param({"detector": {"file": "gone.onnx"}}, r"gone\.onnx: No such file", id="missing-file"),
        pytest.param({"recogniser": {"dictionary": "gone.txt"}}, r"gone\.txt: No such file", id="missing-dictionary"),
        pytest.param(
            {"recogniser": {"dictionary": "short.txt"}}, "with the blank and the space.*4 classes", id="short"
        ),
        pytest.param({"recogniser": {"space": False}}, r"\(with the blank\) has 18709 classes", id="no-space"),
        pytest.param({"detector": {"file": "short.txt", "sha256": None}}, r"short\.txt: ", id="no-model"),
        pytest.param({"detector": {"treshold": 0.2}}, r"detector\.treshold: Extra inputs", id="unknown-key"),
        pytest.param({"detector": {"threshold": 3}}, r"detector\.threshold: .*less than 1", id="out-of-range"),
        pytest.param({"detector": {"std": [0, 1, 1]}}, r"detector\.std\.0: .*greater than 0", id="no-deviation"),
        pytest.param({"name": "a b"}, "name: String should match", id="name"),
        pytest.param(
            {"detector": {"file": ppocr.RECOGNISER[0], "sha256": None, "fixed": [48, 320]}},
            r"rec_small\.onnx: a map like .* was expected, not \(1, 40, 18710\)",
            id="files-swapped",
        ),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(folder: Path, changes: dict[str, Any], reason: str) -> None:
    (folder / "short.txt").write_text("甲\n乙\n")
    with pytest.raises(WeightsError, match=reason) as refused:
        models.load(written(folder, **changes), accelerator="cpu")
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"model card {folder}/card.yaml: ")


@pytest.mark.parametrize("content", ["", "- a", "a: [", "\x00"])
def test_what_is_no_card_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "card.yaml").write_text(content)
    with pytest.raises(WeightsError, match="model card"):
        card.read(tmp_path / "card.yaml")
    with pytest.raises(WeightsError, match="No such file"):
        card.read(tmp_path / "other.yaml")


@pytest.mark.parametrize("louder", [3e38, 1.0], ids=["they-matter", "they-do-not"])
def test_subnormal_weights_become_zero_only_where_the_answers_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, louder: float
) -> None:
    """A detector whose only weights are subnormal, behind which its map is made louder, and one added to it."""
    shape = (1, 3, "height", "width")
    network = graph.Graph(
        nodes=(
            graph.Node(op="Conv", inputs=("images", "weights"), outputs=("quiet",)),
            graph.Node(op="Mul", inputs=("quiet", "louder"), outputs=("loud",)),
            graph.Node(op="Add", inputs=("loud", "one"), outputs=("map",)),
        ),
        constants={
            "weights": np.full((1, 3, 1, 1), 1e-39, np.float32),
            "louder": np.array(louder, np.float32),
            "one": np.array(1, np.float32),
        },
        inputs=(graph.Port(name="images", kind="float32", shape=shape),),
        outputs=(graph.Port(name="map", kind="float32", shape=(1, 1, "height", "width")),),
        opset=13,
    )
    (tmp_path / "det.onnx").write_bytes(graph.serialised(network))
    (tmp_path / "card.yaml").write_text(yaml.safe_dump({"name": "quiet", "detector": {"file": "det.onnx"}}))
    session = models.load(str(tmp_path / "card.yaml"), accelerator="cpu").detector._session
    answer = session.run(np.ones((1, 3, 32, 32), np.float32))
    assert answer == pytest.approx(1.9 if louder > 1 else 1.0, rel=1e-3)
    assert ("det.onnx: its subnormal weights matter" in caplog.text) == (louder > 1)


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        pytest.param({"detector": {"file": "~backup.onnx"}}, "~backup.onnx: No such file", id="no-user-of-that-name"),
        pytest.param({"detector": {"checkpoint": "~nobody/x"}}, "no checkpoint here", id="nor-for-a-checkpoint"),
        pytest.param({"recogniser": {"file": "a\0b"}}, "embedded null", id="no-name-for-a-file"),
        pytest.param({"detector": {"file": "empty.onnx"}}, "empty.onnx: ", id="empty-file"),
        pytest.param({"detector": {"file": "version.onnx"}}, "version.onnx: ", id="no-graph"),
        pytest.param({"recogniser": {"file": "version.onnx"}}, "version.onnx: ", id="no-graph-to-read-with"),
        pytest.param({"name": "ppocr-reread"}, "name: ppocr-reread is another model's", id="a-name-that-is-taken"),
    ],
)
def test_what_cannot_be_opened_is_said_in_one_line(tmp_path: Path, card: dict[str, Any], reason: str) -> None:
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "version.onnx").write_bytes(b"\x08\x08")
    (tmp_path / "card.yaml").write_text(yaml.safe_dump({"name": "x"} | card), encoding="utf-8")
    with pytest.raises(WeightsError, match=reason) as refused:
        models.load(str(tmp_path / "card.yaml"), accelerator="cpu")
    assert "\n" not in str(refused.value)


def test_a_card_may_lie_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spec may name it so (orchestrator.engines.check), and no shell replaces `~` there."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "card.yaml").write_text("name: at-home", encoding="utf-8")
    assert models.load("~/card.yaml", accelerator="cpu").model == "at-home"
    for name, reason in (("~nobody/card.yaml", "No such file"), ("a\0.yaml", "null")):
        with pytest.raises(WeightsError, match=reason):
            models.load(name, accelerator="cpu")


def test_normalisation_is_per_channel_in_the_order_given() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    rgb = card.Normalised(file="x", mean=mean, std=std, channels="RGB").table()
    bgr = card.Normalised(file="x", mean=mean, std=std).table()
    assert np.allclose(bgr[0, 51], (0.2 - np.array(mean)) / np.array(std))
    assert np.array_equal(rgb, bgr[:, :, ::-1]) or np.allclose(rgb, bgr[:, :, ::-1])


def test_hashes_of_the_built_in_files_are_of_their_bytes() -> None:
    for name, sha256 in (ppocr.DETECTOR, ppocr.RECOGNISER, ppocr.ORIENTER):
        assert hashlib.sha256(weights.read(ppocr.PACKAGE, name, sha256)).hexdigest() == sha256


def halve(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HALVE_HOME": str(home)},
    )


def test_the_commands_take_a_card(folder: Path, pages: Path) -> None:
    name = written(folder)
    read = halve("read", "--model", name, "--json", str(pages / "nameplate.png"), home=folder)
    assert read.returncode == 0, read.stderr
    page = json.loads(read.stdout)
    assert (page["model"], page["structured_data"]["型号"]) == ("pair", "Y2-132M-4")


@pytest.mark.slow
def test_what_is_measured_of_a_card_counts_for_the_specs_that_name_it(tmp_path: Path, pages: Path) -> None:
    """By its path: that is what a spec says, and the only thing that the table is asked by."""
    card_file, scans = tmp_path / "card.yaml", tmp_path / "scans"
    card_file.write_text("name: pair", encoding="utf-8")
    scans.mkdir()
    (scans / "a.png").write_bytes((pages / "packaging.png").read_bytes())
    words = ("--images", str(scans), "--seconds", "0.1", "--workers", "1", "--record")
    measured = halve("bench", "--model", str(card_file), *words, home=tmp_path)
    assert measured.returncode == 0, measured.stderr
    assert "halve gpus --model" in measured.stdout
    listed = halve("gpus", "--model", str(card_file), "--json", home=tmp_path)
    assert [row["images_per_second"] > 0 for row in json.loads(listed.stdout) if row["source"] == "bench"] == [True]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        pytest.param(("--model", "cv_resnet18_ocr-detection"), "no checkpoint here: put pytorch_model.pt", id="none"),
        pytest.param(("--model", "nothing"), "no model named 'nothing'; there is ppocr, ppocr-reread", id="unknown"),
        pytest.param(("--model", "gone.yaml"), "model card gone.yaml: No such file", id="no-card"),
        pytest.param(("--backend", "abacus"), "it is one of auto, onnxruntime, openvino, torch", id="backend"),
    ],
)
def test_the_commands_refuse_in_one_line(folder: Path, pages: Path, words: tuple[str, str], reason: str) -> None:
    done = halve("read", *words, str(pages / "nameplate.png"), home=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
