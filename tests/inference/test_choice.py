"""The fastest way to run a model that reads as well is found by measuring, and remembered for that device alone."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from inference import bench, choice, images, models
from inference.agreement import agreement
from inference.choice import Trial
from inference.engine import Engine

SLOW = Trial(backend="onnxruntime", precision="fp32", milliseconds=90, characters_equal=1, sound=True)
FAST = Trial(backend="openvino", precision="bf16", milliseconds=40, characters_equal=0.99, sound=True)
WRONG = Trial(backend="torch", precision="fp16", milliseconds=10, characters_equal=0.5, reason="reads otherwise")
ABSENT = Trial(backend="torch", precision="bf16", reason="not here")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HALVE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_fastest_that_reads_as_well_is_best() -> None:
    assert choice.best([SLOW, FAST, WRONG, ABSENT]) == FAST
    assert choice.best([SLOW, replace(FAST, sound=False), WRONG]) == SLOW


@pytest.mark.parametrize(
    ("equal", "true", "wanted", "sound"),
    [
        pytest.param(1.0, 0.9, 0.9, True, id="as-good"),
        pytest.param(0.99, None, None, True, id="no-truth-known"),
        pytest.param(0.97, 0.9, 0.9, False, id="reads-otherwise"),
        pytest.param(0.99, 0.88, 0.9, False, id="less-true"),
        pytest.param(0.99, 0.95, 0.9, True, id="truer"),
    ],
)
def test_sound_is_as_good_as_the_reference(equal: float, true: float, wanted: float, sound: bool) -> None:
    assert (choice._unsound(equal, true, wanted) is None) == sound


def test_a_choice_is_remembered_for_its_device_model_backend_and_versions(home: Path) -> None:
    assert choice.remembered("ppocr") == ("auto", "fp32")
    file = choice.remember("ppocr", [SLOW, FAST])
    assert file.parent == home
    assert choice.remembered("ppocr") == ("openvino", "bf16")
    assert choice.remembered("ppocr", "openvino") == ("openvino", "bf16")
    assert choice.remembered("ppocr", "torch") == ("torch", "fp32"), "a backend that was named is kept"
    assert choice.remembered("ppocr-reread") == ("openvino", "bf16"), "the same networks"
    assert choice.remembered("cv_resnet18_ocr-detection") == ("auto", "fp32")
    content = json.loads(file.read_text())
    ((name, known),) = content.items()
    assert name == choice.device()
    assert [trial["sound"] for trial in known["ppocr"]["trials"]] == [True, True]
    known["ppocr"]["versions"]["numpy"] = "1.0"
    file.write_text(json.dumps(content))
    assert choice.remembered("ppocr") == ("auto", "fp32"), "measured with other packages"
    file.write_text(json.dumps({"another machine": {"ppocr": known["ppocr"] | {"versions": bench.versions()}}}))
    assert choice.remembered("ppocr") == ("auto", "fp32")
    file.write_text("{")
    assert choice.remembered("ppocr") == ("auto", "fp32")


@pytest.mark.parametrize(
    "entry",
    [
        [],
        {"ppocr": []},
        {"ppocr": "x"},
        {"ppocr": {}},
        {"ppocr": {"backend": "openvino", "precision": "bf16"}},
        {"ppocr": {"backend": "abacus", "precision": "fp32", "versions": bench.versions()}},
        {"ppocr": {"backend": ["openvino"], "precision": "bf16", "versions": bench.versions()}},
        {"ppocr": {"backend": "openvino", "precision": "int8", "versions": bench.versions()}},
    ],
)
def test_a_damaged_memory_is_none(home: Path, entry: object) -> None:
    """Every start looks there: no replica may fail for it."""
    home.mkdir()
    (home / choice.FILE).write_text(json.dumps({choice.device(): entry}))
    assert choice.remembered("ppocr") == ("auto", "fp32")
    choice.remember("ppocr", [SLOW, FAST])
    assert choice.remembered("ppocr") == ("openvino", "bf16")


def test_where_nobody_is_at_home_nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may have no home."""
    monkeypatch.setenv("HALVE_HOME", "~nobody-of-that-name/halve")
    assert choice.remembered("ppocr") == ("auto", "fp32")
    with pytest.raises(OSError, match="HALVE_HOME"):
        choice.remember("ppocr", [SLOW])
    with pytest.raises(models.WeightsError, match="HALVE_HOME"):
        models.load("cv_resnet18_ocr-detection", accelerator="cpu")


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed: pip install 'halve[openvino]'")
def test_candidates_are_measured_on_the_same_pages() -> None:
    only: list[choice.Candidate] = [("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "fp16")]
    trials = choice.tried("ppocr", bench.drawn_pages()[:1], bench.drawn_texts()[:1], accelerator="cpu", only=only)
    assert [(trial.sound, trial.characters_equal) for trial in trials] == [(True, 1), (True, 1), (False, None)]
    assert all(trial.milliseconds and (trial.true_characters or 0) > 0.97 for trial in trials[:2])
    assert "openvino does not run models in fp16" in (trials[2].reason or "")


def test_onnxruntime_in_fp16_reads_as_well(engine: Engine, pages: Path) -> None:
    half = models.load(backend="onnxruntime", accelerator="cpu", precision="fp16")
    assert (half.precision, half.provider) == ("fp16", "CPUExecutionProvider")
    page = images.decode((pages / "packaging.png").read_bytes())
    expected, got = ([[(line.text, line.box) for line in each.read([page])[0].lines]] for each in (engine, half))
    assert agreement(expected, got)[1] >= choice.LEAST_CHARACTERS
