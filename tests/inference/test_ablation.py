"""Each switch is measured beside the plain engine, and what it changes in the text is said."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from inference import ablation, bench, images
from inference.agreement import Page, agreement
from inference.engine import Engine


def written(*texts: str) -> Page:
    return [
        (text, ((0.0, 30.0 * i), (100.0, 30.0 * i), (100.0, 30.0 * i + 20), (0.0, 30.0 * i + 20)))
        for i, text in enumerate(texts)
    ]


@pytest.mark.parametrize(
    ("ours", "lines", "characters"),
    [
        pytest.param(written("甲方", "乙方"), 1.0, 1.0, id="equal"),
        pytest.param(written("甲方", "乙万"), 0.5, 0.75, id="one-character-wrong"),
        pytest.param(written("甲方"), 0.5, 0.5, id="one-line-missing"),
        pytest.param(written("乙方", "甲方"), 0.0, 0.5, id="in-another-place"),
        pytest.param([], 0.0, 0.0, id="nothing"),
        pytest.param([*written("甲方", "乙方"), ("more", ((500, 500), (600, 520)))], 1.0, 1.0, id="more"),
    ],
)
def test_agreement(ours: Page, lines: float, characters: float) -> None:
    assert agreement([written("甲方", "乙方")], [ours]) == (lines, characters)


def test_the_drawn_pages_say_what_was_drawn_on_them(engine: Engine) -> None:
    for file, truth in zip(bench.drawn_pages(), bench.drawn_texts(), strict=True):
        found = [(line.text, line.box) for line in engine.read([images.decode(file)])[0].lines]
        assert agreement([truth], [found])[1] > 0.97


@pytest.mark.slow
def test_a_row_per_switch(pages: Path) -> None:
    files = [(pages / name).read_bytes() for name in ("packaging.png", "nameplate.png")]
    rows = ablation.ablate(files, workers=2)
    absent = tuple(name for name in ablation.OPTIONAL if find_spec(name) is None)
    assert [row.switch for row in rows] == [name for name in ablation.SWITCHES if not name.startswith(absent)]
    first = rows[0]
    assert (first.speed, first.lines_equal, first.characters_equal, first.true_lines) == (1, 1, 1, None)
    for row in rows:
        assert row.memory_bytes > 50 * 2**20
        assert row.images_per_second > 0
        assert row.characters_equal > 0.95
    assert all(row.lines_equal == 1 for row in rows[:6])  # these are exact by construction


def test_known_texts_beside_the_images_are_compared(pages: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes((pages / "packaging.png").read_bytes())
    box = [170, 40, 430, 40, 430, 92, 170, 92]
    known = [{"polygon": box, "text": "全脂纯牛奶"}, {"polygon": box, "text": None}, {"polygon": box, "text": "全脂奶"}]
    (tmp_path / "ground_truth.json").write_text(json.dumps({"a.png": {"instances": known}}))
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()"]
    command += ["bench", "--ablate", "--json", "--images", str(tmp_path)]
    done = subprocess.run(
        [*command, "--images", str(tmp_path)], capture_output=True, text=True, timeout=200, check=True
    )
    row = json.loads(done.stdout)[0]
    assert (row["switch"], row["true_lines"], row["true_characters"]) == ("plain", 0.5, 1.0)
    (tmp_path / "ground_truth.json").write_text("[]")
    done = subprocess.run(
        [*command, "--images", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
