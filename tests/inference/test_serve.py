"""`halve serve` takes the engine's choices and says in /healthz what really runs."""

import base64
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from inference import choice
from inference.choice import Trial
from tests.orchestrator.tiny import until


def halve(*words: str, home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "serve", "--port", "0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HALVE_HOME": str(home)},
    )


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed: pip install 'halve[openvino]'")
def test_the_remembered_choice_is_served_and_allowed_sources_are_read(
    tmp_path: Path, pages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALVE_HOME", str(tmp_path))
    chosen = Trial(backend="openvino", precision="fp32", milliseconds=1, characters_equal=1, sound=True)
    choice.remember("ppocr", [chosen])
    process = halve("--workers", "1", "--allow-source", f"file://{pages.resolve()}", home=tmp_path)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        until(lambda: httpx.get(f"{url}/healthz", timeout=60).json()["status"] == "ready")
        health = httpx.get(f"{url}/healthz", timeout=60).json()
        assert (health["provider"], health["precision"]) == ("openvino-cpu", "fp32")
        named = {"image": {"source": f"file://{(pages / 'nameplate.png').resolve()}"}}
        read = httpx.post(f"{url}/v1/ocr", json=named, timeout=60)
        sent = {"image": base64.b64encode((pages / "nameplate.png").read_bytes()).decode()}
        assert read.status_code == 200, read.text
        same = httpx.post(f"{url}/v1/ocr", json=sent, timeout=60).json()
        assert read.json()["recognized_text"] == same["recognized_text"]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        pytest.param(("--backend", "abacus"), "--backend abacus: it is one of auto, onnxruntime", id="backend"),
        pytest.param(("--precision", "fp8"), "--precision fp8: it is one of auto, fp32, bf16, fp16", id="precision"),
        pytest.param(
            ("--backend", "onnxruntime", "--precision", "bf16"), "onnxruntime does not run models in bf16", id="both"
        ),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(tmp_path: Path, words: tuple[str, ...], reason: str) -> None:
    process = halve(*words, home=tmp_path)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert reason in said.splitlines()[-1]
    assert "Traceback" not in said
