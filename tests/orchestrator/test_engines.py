"""An engine that cannot run is refused before anything is started, in one line with the remedy."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from inference import models
from orchestrator import engines
from orchestrator.clock import SystemClock
from orchestrator.deployment import payload_of
from orchestrator.errors import Refused
from orchestrator.providers import Request
from orchestrator.providers.local import LocalProvider, engine_command
from orchestrator.spec import parse
from tests.orchestrator.test_local_provider import THIS_MACHINE, gone
from tests.orchestrator.tiny import until

LOCAL = "name: ocr\nprovider: local\n"


def test_the_table_is_the_engines_own() -> None:
    assert dict(engines.PRECISIONS) == dict(models.PRECISIONS)
    assert engines.MODELS == models.NAMES
    assert engines.CARD_SUFFIXES == models.CARD_SUFFIXES
    assert {name: f"halve[{extra}]" for name, extra in engines.EXTRAS.items()} == dict(models.EXTRAS)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        pytest.param("model: gpt", "model: gpt is not known; use ppocr or", id="unknown-model"),
        pytest.param("model: cards/a.yaml", "by its absolute path", id="a-card-by-a-relative-path"),
        pytest.param("model: /nowhere/a.yaml", "/nowhere/a.yaml: there is no such file", id="no-such-card"),
        pytest.param(
            "model: ppocr\nengine: {precision: int8}", "no backend runs models in int8; use fp32, bf16, fp16", id="int8"
        ),
        pytest.param(
            "model: ppocr\nengine: {backend: onnxruntime, precision: bf16}",
            "engine.precision: onnxruntime does not run models in bf16; use fp32 or fp16",
            id="bf16-by-onnxruntime",
        ),
        pytest.param(
            "model: ppocr\nengine: {backend: openvino, precision: fp16}",
            "openvino does not run models in fp16; use fp32 or bf16",
            id="fp16-by-openvino",
        ),
        pytest.param(
            "model: ppocr\nengine: {sources: ['file:///no%20where']}",
            "engine.sources: file:///no%20where: there is no folder /no where on this machine",
            id="no-such-source",
        ),
    ],
)
def test_what_cannot_run_is_refused(lines: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refusal:
        engines.check(parse(LOCAL + lines), tmp_path)
    assert words in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed: pip install 'halve[torch]'")
def test_a_checkpoint_that_is_not_here_is_named(tmp_path: Path) -> None:
    spec = parse(LOCAL + "model: cv_resnet18_ocr-detection")
    with pytest.raises(Refused, match=f"no checkpoint here.*{tmp_path}/models/cv_resnet18_ocr-detection"):
        engines.check(spec, tmp_path)
    place = tmp_path / "models" / "cv_resnet18_ocr-detection"
    place.mkdir(parents=True)
    (place / "pytorch_model.pt").write_bytes(b"")
    engines.check(spec, tmp_path)


#: where only what the base and the extra cpu bring can be found
WITHOUT = """
import sys
from importlib.abc import MetaPathFinder
class Without(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ("openvino", "torch"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Without())
import importlib.util as util
found = util.find_spec
util.find_spec = lambda name, package=None: None if name in ("openvino", "torch") else found(name, package)
from pathlib import Path
from orchestrator import engines
from orchestrator.errors import Refused
from orchestrator.spec import parse
try:
    engines.check(parse(sys.argv[1]), Path("."))
except Refused as refused:
    print(refused)
"""


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        pytest.param("{backend: openvino}", "engine.backend: openvino is not installed", id="backend"),
        pytest.param("{precision: bf16}", "'halve[openvino]' or pip install 'halve[torch]'", id="precision"),
        pytest.param("{backend: onnxruntime}", "", id="installed"),
    ],
)
def test_what_is_not_installed_is_refused(engine: str, words: str) -> None:
    spec = f"{LOCAL}model: ppocr\nengine: {engine}"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, spec], capture_output=True, text=True, timeout=120, check=True
    )
    assert words in done.stdout
    assert len(done.stdout.splitlines()) == (1 if words else 0)


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed: pip install 'halve[openvino]'")
def test_a_replica_runs_the_engine_of_the_spec(tmp_path: Path) -> None:
    """From the spec's words to what /healthz says really runs."""
    provider = LocalProvider(tmp_path, SystemClock(), THIS_MACHINE)
    payload = {"model": "ppocr", "engine": {"backend": "openvino", "precision": "fp32", "workers": 1, "threads": 1}}
    provider.launch(Request(token="a", offer=THIS_MACHINE, payload=payload))
    announced = tmp_path / "replicas" / "a" / "announce.json"
    try:
        until(announced.exists)
        url = json.loads(announced.read_text())["url"]
        until(lambda: httpx.get(f"{url}/healthz", timeout=60).json()["status"] == "ready")
        health = httpx.get(f"{url}/healthz", timeout=60).json()
        assert (health["provider"], health["precision"]) == ("openvino-cpu", "fp32")
    finally:
        provider.terminate("a")
        until(lambda: not [one for one in provider.instances() if one.state.name == "RUNNING"])


def test_replicas_look_for_checkpoints_where_the_daemon_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, sys; sys.exit(os.environ.get('HALVE_HOME', 'none'))"
    command = [sys.executable, "-S", "-c", code]
    monkeypatch.setenv("HALVE_HOME", str(tmp_path))
    provider = LocalProvider(tmp_path, SystemClock(), THIS_MACHINE, lambda payload, announce: command)
    provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    assert gone(provider, "a").detail == str(tmp_path)


def test_what_replicas_may_read_reaches_their_command_line(tmp_path: Path) -> None:
    wanted = parse(LOCAL + f"model: ppocr\nengine: {{sources: ['{tmp_path.as_uri()}/', 's3://bucket/scans']}}")
    engines.check(wanted, tmp_path)
    command = engine_command(payload_of(wanted), tmp_path / "announced")
    assert command[-4:] == ["--allow-source", tmp_path.as_uri(), "--allow-source", "s3://bucket/scans"]
    without = parse(LOCAL + "model: ppocr")
    assert payload_of(without)["engine"] == {}
    assert wanted.replica_digest() != without.replica_digest()


@pytest.mark.parametrize(
    "source", ["scans", "/scans", "file://scans", "file:///", "file:///a/../b", "s3://", "s3:///a", "s3://a//b", "7"]
)
def test_a_source_that_is_none_is_refused(source: str) -> None:
    with pytest.raises(Refused, match=r"engine\.sources.*want file:///folder or s3://bucket/prefix"):
        parse(LOCAL + f"model: ppocr\nengine: {{sources: ['{source}']}}")
