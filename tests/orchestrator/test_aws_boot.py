"""What a machine on AWS does first: its user data, and its watchdog as a process beside a fake metadata service."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from orchestrator.providers import Listed, Misconfigured, State
from orchestrator.providers.aws import boot
from orchestrator.providers.aws.settings import Installation
from orchestrator.providers.aws.watch import Watch, beside_the_engine
from tests.orchestrator.aws_proxy import settings
from tests.orchestrator.fake_engine import free_port
from tests.orchestrator.tiny import until

KEY = b"the installation's secret"
OURS = Installation(KEY)
PAYLOAD = {"deployment": "ocr", "model": "ppocr", "engine": {"workers": 2}, "digest": "first"}
FROZEN = settings(bucket="wheels").frozen(("halve/00ff/halve-1-py3-none-any.whl", "00ff"))


def user_data(**engine: Any) -> str:
    return boot.user_data({**PAYLOAD, "engine": engine}, FROZEN, OURS.word("t"), "us-east-1")


def test_the_watchdog_comes_first_and_everything_in_its_order() -> None:
    said = yaml.safe_load(user_data(workers=2))
    assert list(said) == ["bootcmd", "write_files", "runcmd"]
    assert said["bootcmd"][0][-4:] == ["--unit=halve-deadman", "--on-active=1800", "systemctl", "poweroff"]
    steps = [" ".join(step) for step in said["runcmd"]]
    order = [next(n for n, step in enumerate(steps) if word in step) for word in ("watchdog", "install", "engine")]
    assert order == sorted(order)
    files = {one["path"]: one["content"] for one in said["write_files"]}
    assert files["/opt/halve/watchdog.py"] == boot.part("watchdog.py")
    assert json.loads(files["/opt/halve/watchdog.json"])["lease_seconds"] == 1800
    assert 'HALVE_WHEEL="s3://wheels/halve/00ff/halve-1-py3-none-any.whl"' in files["/opt/halve/engine.env"]
    assert "--port 7860 --model ppocr --workers 2" in files["/opt/halve/engine.env"]


def test_it_is_the_same_byte_for_byte_and_holds_no_secret() -> None:
    word = OURS.word("t")
    assert user_data(workers=2) == user_data(workers=2)
    assert word not in user_data() and hashlib.sha256(word.encode()).hexdigest() in user_data()
    assert KEY.decode() not in user_data() and KEY.hex() not in user_data()
    assert len(user_data()) < boot.USER_DATA_MAX


@pytest.mark.parametrize("evil", ['x"; poweroff #', "a b", "$(id)", "${HOME}", "ü", ""])
def test_no_word_of_a_spec_becomes_a_command(evil: str) -> None:
    with pytest.raises(Misconfigured, match="cannot be told"):
        user_data(backend=evil)


def test_what_is_too_long_for_ec2_is_refused() -> None:
    with pytest.raises(Misconfigured, match="16384 bytes"):
        user_data(backend="x" * 17_000)


def test_cloud_init_itself_takes_it(tmp_path: Path) -> None:
    if shutil.which("cloud-init") is None:
        pytest.skip("cloud-init is not installed here")
    path = tmp_path / "user-data"
    path.write_text(user_data())
    subprocess.run(["cloud-init", "schema", "--config-file", str(path)], check=True, timeout=60)


def test_the_shell_reads_the_installer(tmp_path: Path) -> None:
    """A wheel that is not the one with this hash is never installed."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, does in (("nvidia-smi", "exit 0"), ("aws", 'for last; do :; done; echo wheel > "$last"')):
        (tools / name).write_text(f"#!/bin/sh\n{does}\n")
        (tools / name).chmod(0o755)
    script = boot.part("install.sh").replace("/opt/halve", str(tmp_path))
    for sha256, done in ((hashlib.sha256(b"wheel\n").hexdigest(), True), ("00" * 32, False)):
        (tmp_path / "engine.env").write_text(
            f'HALVE_WHEEL="s3://b/k/w.whl"\nHALVE_WHEEL_SHA256="{sha256}"\nHALVE_REGION="r"\n'
        )
        checked = script[: script.index("python3 -m venv")]
        path = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
        ran = subprocess.run(["sh", "-c", checked], env=path, capture_output=True, text=True, timeout=30, check=False)
        assert (ran.returncode == 0) is done, ran.stderr


@dataclass
class Metadata:
    """A metadata service: IMDSv2 only, as our machines ask for."""

    url: str = ""
    documents: dict[str, Any] = field(default_factory=dict)
    asked: int = 0


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    said = Metadata()

    class Answers(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            lives = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
            self.reply(200 if self.path == "/latest/api/token" and lives else 403, b"the token")

        def do_GET(self) -> None:
            said.asked += 1
            if self.headers.get("X-aws-ec2-metadata-token") != "the token":
                return self.reply(401, b"")
            document = said.documents.get(self.path.removeprefix("/latest/meta-data/"))
            return self.reply(404, b"") if document is None else self.reply(200, json.dumps(document).encode())

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    said.url = f"http://127.0.0.1:{server.server_port}"
    yield said
    server.shutdown()
    server.server_close()


@dataclass
class Machine:
    """A machine that is its watchdog alone. It is off once `off` is there."""

    url: str
    off: Path
    process: "subprocess.Popen[bytes]"


@pytest.fixture
def start(tmp_path: Path, metadata: Metadata) -> Iterator[Any]:
    started: list[Machine] = []

    def machine(lease_seconds: float) -> Machine:
        (told,) = [
            json.loads(one["content"])
            for one in yaml.safe_load(user_data())["write_files"]
            if one["path"].endswith("watchdog.json")
        ]
        off, port = tmp_path / "off", free_port()
        own = {"lease_seconds": lease_seconds, "port": port, "poweroff": ["touch", str(off)], "poll_seconds": 0.1}
        own |= {"metadata": metadata.url, "kept": str(tmp_path / "lease")}
        (tmp_path / "watchdog.json").write_text(json.dumps({**told, **own}))
        (tmp_path / "watchdog.py").write_text(boot.part("watchdog.py"))
        command = [sys.executable, str(tmp_path / "watchdog.py"), str(tmp_path / "watchdog.json")]
        one = Machine(f"http://127.0.0.1:{port}", off, subprocess.Popen(command))
        started.append(one)
        return one

    yield machine
    for one in started:
        one.process.kill()
        one.process.wait()


def listed(token: str = "t", **changes: Any) -> Listed:
    plain = {"provider_id": "i-1", "token": token, "state": State.RUNNING, "url": "http://192.0.2.1:7860"}
    return Listed(**{**plain, "launched_at": datetime(2026, 11, 20, tzinfo=UTC), **changes})


def test_a_machine_that_nobody_asks_for_ends_itself(start: Any) -> None:
    machine = start(0.5)
    until(machine.off.exists, 20, "the lease never ran out")


def test_a_watchdog_that_is_started_again_has_no_new_lease(start: Any) -> None:
    first = start(3.0)
    until(first.off.with_name("lease").exists, 20)
    began = time.monotonic()
    for _ in range(3):
        time.sleep(0.8)
        first.process.kill()
        first.process.wait()
        first = start(3.0)
    until(first.off.exists, 20)
    assert time.monotonic() - began < 5.0


def test_whoever_knows_the_word_renews_the_lease_and_nobody_else(start: Any) -> None:
    machine = start(3.0)
    headers = {"Authorization": f"Bearer {OURS.word('t')}"}

    def renewed() -> bool:
        try:
            return httpx.post(f"{machine.url}/lease", headers=headers).is_success
        except httpx.TransportError:
            return False

    until(renewed, 20, "the watchdog never listened")
    began = time.monotonic()
    while time.monotonic() - began < 4.5:
        assert httpx.post(f"{machine.url}/lease", headers=headers).json()["reclaim_at"] is None
        for wrong in ({}, {"Authorization": f"Bearer {OURS.word('other')}"}, {"Authorization": OURS.word("t")}):
            assert httpx.post(f"{machine.url}/lease", headers=wrong).status_code == 401
        assert not machine.off.exists()
        time.sleep(0.3)
    for path in ("/", "/healthz"):
        assert httpx.post(f"{machine.url}{path}", headers=headers).status_code == 404
    until(machine.off.exists, 20, "nobody asks any more")


def test_a_notice_on_the_machine_is_heard_and_the_earliest_moment_counts(start: Any, metadata: Metadata) -> None:
    machine = start(60.0)
    metadata.documents["spot/instance-action"] = {"action": "terminate", "time": "2026-11-20T12:02:00Z"}
    noticed = datetime(2026, 11, 20, 12, 2, tzinfo=UTC)
    later = datetime(2026, 11, 20, 12, 5, tzinfo=UTC)
    watch = Watch(OURS, lambda _: machine.url, ask_seconds=0.0)

    def heard() -> Listed | None:
        (one,) = watch.over([listed()])
        return one if one.reclaim_at is not None else None

    assert until(heard, 20).reclaim_at == noticed
    assert [one.reclaim_at for one in watch.over([listed(reclaim_at=later)])] == [noticed]
    metadata.documents.clear()
    machine.process.kill()  # it was said once, and nothing takes it back
    assert [one.reclaim_at for one in watch.over([listed()])] == [noticed]
    assert [one.reclaim_at for one in watch.over([listed(state=State.GONE)])] == [None]


def test_silence_and_strange_answers_are_no_notice(metadata: Metadata) -> None:
    watch = Watch(OURS, lambda url: url, ask_seconds=0.0)
    machines = [listed("a", url="http://127.0.0.1:9"), listed("b", url=metadata.url), listed("c", url=None)]
    assert watch.over(machines) == machines


def test_the_watchdog_is_asked_beside_the_engine() -> None:
    assert beside_the_engine("http://192.0.2.1:7860") == "http://192.0.2.1:7861"
    assert re.search(r"--port 7860\b", user_data())
