"""What a machine on AWS does first: its user data, and its watchdog as a process beside a fake metadata service."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from orchestrator import cards
from orchestrator.providers import Misconfigured
from orchestrator.providers.aws import boot
from orchestrator.providers.aws.settings import Installation
from tests.orchestrator.aws_machine import Machine, Metadata, metadata_service, started
from tests.orchestrator.aws_proxy import settings
from tests.orchestrator.tiny import until

KEY = b"the installation's secret"
OURS = Installation(KEY)
PAYLOAD = {"deployment": "ocr", "model": "ppocr", "engine": {"workers": 2}, "digest": "first"}
FROZEN = settings(bucket="wheels").frozen(("halve/00ff/halve-1-py3-none-any.whl", "00ff"))


def user_data(**engine: Any) -> str:
    return boot.user_data({**PAYLOAD, "engine": engine}, FROZEN, OURS, "t", "us-east-1")


def test_the_watchdog_comes_first_and_everything_in_its_order() -> None:
    said = yaml.safe_load(user_data(workers=2))
    assert list(said) == ["bootcmd", "write_files", "runcmd"]
    assert said["bootcmd"][0][-4:] == ["--unit=halve-deadman", "--on-active=1800", "systemctl", "poweroff"]
    assert said["bootcmd"][0][:4] == ["cloud-init-per", "once", "halve-deadman", "systemd-run"]
    assert [" ".join(step) for step in said["runcmd"]] == [
        "systemctl daemon-reload",
        "systemctl enable --now halve-watchdog.service",
        # the timer ends when the watchdog is there, and not before
        "sh -c systemctl is-active --quiet halve-watchdog.service && systemctl stop halve-deadman.timer",
        "/opt/halve/install.sh",
        "systemctl enable --now halve-engine.service",
    ]
    files = {one["path"]: one["content"] for one in said["write_files"]}
    assert files["/opt/halve/watchdog.py"] == boot.part("watchdog.py")
    told = json.loads(files["/opt/halve/watchdog.json"])
    assert (told["lease_seconds"], told["poll_seconds"]) == (1800, 5)
    assert told["metadata"] == "http://169.254.169.254"
    unit = files["/etc/systemd/system/halve-engine.service"]
    assert f"--notices {told['notices']}\n" in unit
    assert f"RuntimeDirectory={Path(told['notices']).parent.name}\n" in boot.part("halve-watchdog.service")
    assert 'HALVE_WHEEL="s3://wheels/halve/00ff/halve-1-py3-none-any.whl"' in files["/opt/halve/engine.env"]
    assert "--port 7860 --model ppocr --workers 2" in files["/opt/halve/engine.env"]


def test_a_container_image_is_the_engine(tmp_path: Path) -> None:
    frozen = settings(image="ghcr.io/some/halve@sha256:00ff").frozen(None)
    said = yaml.safe_load(boot.user_data(PAYLOAD, frozen, OURS, "t", "us-east-1"))
    files = {one["path"]: one["content"] for one in said["write_files"]}
    assert 'HALVE_IMAGE="ghcr.io/some/halve@sha256:00ff"' in files["/opt/halve/engine.env"]
    assert "docker run" in files["/etc/systemd/system/halve-engine.service"]
    notices = Path(json.loads(files["/opt/halve/watchdog.json"])["notices"])
    assert f"--volume {notices.parent}:/run/notices:ro" in files["/etc/systemd/system/halve-engine.service"]
    assert f"--notices /run/notices/{notices.name}\n" in files["/etc/systemd/system/halve-engine.service"]
    assert (
        "--network host" not in files["/etc/systemd/system/halve-engine.service"]
    )  # the metadata service is near there
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("nvidia-smi", "docker"):
        (tools / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/did\n')
        (tools / name).chmod(0o755)
    (tmp_path / "engine.env").write_text(files["/opt/halve/engine.env"])
    script = files["/opt/halve/install.sh"].replace("/opt/halve", str(tmp_path))
    path = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", script], env=path, capture_output=True, timeout=120, check=True)
    assert "docker pull --quiet ghcr.io/some/halve@sha256:00ff" in (tmp_path / "did").read_text()


def test_who_breaks_the_engine_has_neither_the_machine_nor_its_role() -> None:
    """The metadata service hands the role out; a container is a hop too far from it, and this unit may not call it."""
    unit = boot.part("halve-engine.service").splitlines()
    assert {"IPAddressDeny=169.254.169.254", "DynamicUser=yes", "NoNewPrivileges=yes", "ProtectSystem=strict"} <= {
        *unit
    }
    contained = boot.part("halve-engine-container.service")
    assert "--cap-drop ALL --security-opt no-new-privileges" in contained
    assert "--privileged" not in contained and "--network" not in contained


@pytest.mark.parametrize("image", ["ghcr.io/x; poweroff", "a/$(id)", "a/ b"])
def test_no_image_becomes_a_command(image: str) -> None:
    with pytest.raises(Misconfigured, match="cannot be told"):
        boot.user_data(PAYLOAD, settings(image=image).frozen(None), OURS, "t", "us-east-1")


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


def test_it_is_a_cloud_config() -> None:
    schema = json.loads((Path(__file__).parents[1] / "infra" / "cloud-config-schema.json").read_text())
    said = yaml.safe_load(user_data(workers=2))
    assert user_data().startswith("#cloud-config\n")
    jsonschema.Draft4Validator(schema).validate(said)
    for wrong in ({"runcmds": []}, {"write_files": [{"content": "x"}]}, {"bootcmd": [[1]]}):
        assert list(jsonschema.Draft4Validator(schema).iter_errors({**said, **wrong}))


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
            f'HALVE_IMAGE=""\nHALVE_WHEEL="s3://b/k/w.whl"\nHALVE_WHEEL_SHA256="{sha256}"\nHALVE_REGION="r"\n'
        )
        checked = script[: script.index("python3 -m venv")]
        path = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
        ran = subprocess.run(["sh", "-c", checked], env=path, capture_output=True, text=True, timeout=120, check=False)
        assert (ran.returncode == 0) is done, ran.stderr


@pytest.mark.parametrize("capability", ["6.0", "7.0", "7.5", "8.6", "10.0", "12.0"])
def test_a_card_gets_the_packages_that_have_code_for_it(tmp_path: Path, capability: str) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    pip = f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n'
    fakes = {
        "nvidia-smi": f'case "$*" in *compute_cap*) echo {capability} ;; esac',
        "aws": 'for last; do :; done; echo wheel > "$last"',
        "python3": f"mkdir -p {tmp_path}/venv/bin && cp {tmp_path}/pip {tmp_path}/venv/bin/pip",
    }
    for name, does in fakes.items():
        (tools / name).write_text(f"#!/bin/sh\n{does}\n")
        (tools / name).chmod(0o755)
    (tmp_path / "pip").write_text(pip)
    (tmp_path / "pip").chmod(0o755)
    sha256 = hashlib.sha256(b"wheel\n").hexdigest()
    (tmp_path / "engine.env").write_text(
        f'HALVE_IMAGE=""\nHALVE_WHEEL="s3://b/k/w.whl"\nHALVE_WHEEL_SHA256="{sha256}"\nHALVE_REGION="r"\n'
    )
    script = boot.part("install.sh").replace("/opt/halve", str(tmp_path))
    path = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", script], env=path, capture_output=True, timeout=120, check=True)
    major, minor = capability.split(".")
    old = cards.constraints([(int(major), int(minor))]) == cards.CUDA12_SET
    constraint = f"--constraint {tmp_path}/cuda12.txt " if old else ""
    assert (tmp_path / "asked").read_text() == f"install --quiet --no-input {constraint}{tmp_path}/w.whl[gpu]\n"


def test_those_packages_are_the_tested_set() -> None:
    tested = (Path(__file__).parents[2] / cards.CUDA12_SET).read_text().splitlines()
    sent = {one["path"]: one["content"] for one in yaml.safe_load(user_data())["write_files"]}["/opt/halve/cuda12.txt"]
    assert set(sent.splitlines()) <= set(tested)
    # what onnxruntime-gpu[cuda,cudnn] asks for, and what that asks for
    wanted = {"onnxruntime-gpu", *(f"nvidia-{name}-cu12" for name in CUDA12)}
    assert {line.partition("==")[0] for line in sent.splitlines()} == wanted


CUDA12 = ("cublas", "cuda-nvrtc", "cuda-runtime", "cudnn", "cufft", "curand", "nvjitlink")


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with metadata_service() as said:
        yield said


@pytest.fixture
def start(tmp_path: Path, metadata: Metadata) -> Iterator[Any]:
    machines: list[Machine] = []

    def machine(lease_seconds: float) -> Machine:
        one = started(tmp_path / "machine", user_data(), metadata.url, lease_seconds=lease_seconds)
        machines.append(one)
        return one

    yield machine
    for one in machines:
        one.kill()


def test_a_machine_that_nobody_asks_for_ends_itself(start: Any) -> None:
    machine = start(0.5)
    until(machine.off.exists, why="the lease never ran out")


def test_a_watchdog_that_is_started_again_has_no_new_lease(start: Any) -> None:
    machine = start(3600.0)
    until((machine.folder / "lease").exists)
    held = machine.lease_until()
    for _ in range(2):
        machine.kill()
        machine.console.unlink(missing_ok=True)
        machine = start(3600.0)
        until(machine.console.exists)  # it listens
        assert machine.lease_until() == held
    machine.kill()
    (machine.folder / "lease").write_text(str(time.monotonic() + 0.5))
    machine = start(3600.0)
    until(machine.off.exists, why="it has given itself another one")


def test_whoever_knows_the_word_renews_the_lease_and_nobody_else(start: Any, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {OURS.word('t')}"}
    for lease_seconds in (3.0, 15.0, 60.0):  # a longer one where this process was not given the time to renew it
        began = last = time.monotonic()
        longest = 0.0  # without a renewal
        machine = start(lease_seconds)
        with machine.client(tmp_path / "home", KEY) as client:
            until(lambda: _status(client, headers) == 200, why="the watchdog never listened")
            while time.monotonic() - began < 1.5 * lease_seconds:
                for wrong in ({}, {"Authorization": f"Bearer {OURS.word('other')}"}, {"Authorization": OURS.word("t")}):
                    assert client.post("/lease", headers=wrong).status_code == 401
                asked = time.monotonic()
                assert client.post("/lease", headers=headers).json()["reclaim_at"] is None
                longest, last = max(longest, time.monotonic() - last), asked
                time.sleep(0.3)
            longest = max(longest, time.monotonic() - last)
            is_off = machine.off.exists()
            for path in ("/", "/healthz"):
                assert client.post(path, headers=headers).status_code == 404
        if longest < lease_seconds:
            break
        machine.kill()
        (machine.folder / "lease").unlink()
        machine.off.unlink(missing_ok=True)
    assert longest < lease_seconds and not is_off
    until(machine.off.exists, why="nobody asks any more")


def test_who_does_not_hold_our_key_is_not_listened_to(start: Any, tmp_path: Path) -> None:
    """Not even with the right word: and in plain HTTP nobody is."""
    machine = start(60.0)
    headers = {"Authorization": f"Bearer {OURS.word('t')}"}
    with machine.client(tmp_path / "home", KEY) as client:
        until(lambda: _status(client, headers) == 200)
        held = machine.lease_until()
        with machine.client(tmp_path / "elsewhere", b"another installation's secret") as stranger:
            assert _status(stranger, headers) is None
        with httpx.Client(base_url=f"http://127.0.0.1:{machine.port}", trust_env=False) as plain:
            assert _status(plain, headers) is None
        assert machine.lease_until() == held
        assert _status(client, headers) == 200


def _status(client: httpx.Client, headers: dict[str, str]) -> int | None:
    try:
        return client.post("/lease", headers=headers).status_code
    except httpx.TransportError:
        return None


def test_a_silent_client_keeps_nobody_waiting(start: Any, tmp_path: Path) -> None:
    machine = start(60.0)
    with machine.client(tmp_path / "home", KEY) as client:
        until(lambda: _status(client, {}) == 401)
        silent = [socket.create_connection(("127.0.0.1", machine.port)) for _ in range(20)]
        assert _status(client, {}) == 401
        with machine.client(tmp_path / "home", KEY) as another:
            assert _status(another, {}) == 401
        for one in silent:
            one.close()


def test_a_watchdog_that_cannot_listen_still_ends_its_machine(tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        machine = started(tmp_path / "machine", user_data(), port=taken.getsockname()[1], lease_seconds=1.0)
        try:
            until(machine.off.exists, why="the lease never ran out")
        finally:
            machine.kill()
