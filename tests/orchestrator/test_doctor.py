"""What stands in the way, each with its remedy, on machines that are described here."""

import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator import cards, doctor, surroundings
from orchestrator.clock import SystemClock, VirtualClock
from orchestrator.doctor import Finding
from orchestrator.errors import Refused
from orchestrator.ledger import deployments, leases
from orchestrator.ledger.store import open_ledger
from orchestrator.providers.aws import check as account
from orchestrator.spec import Spec
from tests.orchestrator.ports import free_port
from tests.orchestrator.test_cards import Nvml

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RENTED = (
    "{name: rented, model: ppocr, provider: aws, aws: {region: us-east-1, instance_types: [g4dn.xlarge], bucket: b}}"
)


def states(found: object) -> list[str]:
    assert isinstance(found, list)
    for one in found:
        assert isinstance(one, Finding)
        assert one.found
        assert one.state == "ok" or one.remedy, one  # whatever is not well says what to do
    return [one.state for one in found]


@pytest.mark.parametrize(
    ("nvml", "expected", "word"),
    [
        pytest.param(Nvml((8, 6), cuda=13000), ["ok", "ok"], "bf16", id="a-3060-and-a-new-driver"),
        pytest.param(Nvml((8, 6), cuda=12040), ["ok", "bad", "ok"], "580 or later", id="a-3060-and-an-old-driver"),
        pytest.param(Nvml((6, 1), cuda=12040), ["ok", "ok"], "6.1", id="a-1060-needs-no-newer-one"),
        pytest.param(Nvml((6, 1), cuda=11040), ["ok", "bad", "ok"], "525 or later", id="a-1060-and-a-very-old-one"),
        pytest.param(Nvml((5, 2), cuda=12040), ["ok", "note"], "--backend torch", id="maxwell"),
        pytest.param(Nvml((3, 5), cuda=12040), ["ok", "bad"], "halve[cpu]", id="kepler"),
    ],
)
def test_driver_and_cards(nvml: Nvml, expected: list[str], word: str) -> None:
    found = list(doctor.of_driver(cards.driver(nvml), "", device=True))
    assert states(found) == expected
    assert any(word in one.found + one.remedy for one in found)


def test_a_card_whose_driver_does_not_answer() -> None:
    (silent,) = doctor.of_driver(None, "Driver/library version mismatch", device=True)
    assert (silent.state, "mismatch" in silent.found, "nvidia-smi" in silent.remedy) == ("bad", True, True)
    (none,) = doctor.of_driver(None, "NVML Shared Library Not Found", device=False)
    assert none.state == "ok"


@pytest.mark.parametrize(
    ("capability", "installed", "expected"),
    [
        ((6, 1), {"onnxruntime-gpu 1.31.1": 13, "torch 2.13.0": 13}, ["bad", "bad"]),
        ((6, 1), {"onnxruntime-gpu 1.24.4": 12, "torch 2.7.1": 12}, ["ok", "ok"]),
        ((8, 6), {"onnxruntime-gpu 1.31.1": 13}, ["ok"]),
        ((8, 6), {}, ["note"]),
    ],
)
def test_packages_and_the_card(capability: tuple[int, int], installed: dict[str, int], expected: list[str]) -> None:
    found = list(doctor.of_packages(cards.driver(Nvml(capability)), installed))
    assert states(found) == expected
    if expected[0] == "bad":
        assert all("constraints-cuda12.txt" in one.remedy for one in found)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ({"onnxruntime": None, "torch": None}, ["ok", "ok"]),
        ({"onnxruntime": "CUDA does not run here: no kernel image", "torch": None}, ["note", "ok"]),
        ({"onnxruntime": "no kernel image", "torch": "no kernel image"}, ["bad", "bad"]),
    ],
)
def test_cuda_is_what_really_ran(runs: dict[str, str | None], expected: list[str]) -> None:
    found = list(doctor.of_backends(cards.driver(Nvml((7, 0))), runs.__getitem__))
    assert states(found) == expected


def test_a_port_in_use() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert states([surroundings.of_port(port)]) == ["note"]
    assert states([surroundings.of_port(port)]) == ["ok"]


def test_each_default_port_says_whose_it_is() -> None:
    for port, (user, remedy) in surroundings.PORTS.items():
        found = surroundings.of_port(port)
        assert f":{port}" in found.found and user in found.found
        assert found.state == "ok" or remedy in found.remedy


@pytest.mark.parametrize(
    ("flags", "state", "word"),
    [
        pytest.param("flags : fpu avx2 amx_bf16 amx_tile", "ok", "bf16", id="sapphire-rapids"),
        pytest.param("flags : fpu sse4_2 avx2", "ok", "fp32", id="haswell"),
        pytest.param("flags : fpu sse4_2 avx", "note", "no AVX2", id="ivy-bridge"),
        pytest.param("Features : fp asimd", "ok", "fp32", id="arm"),
        pytest.param("", "ok", "4 cores", id="another-system"),
    ],
)
def test_a_processor(flags: str, state: str, word: str) -> None:
    found = surroundings.of_processor(f"processor : 0\n{flags}\nbugs : none\n", 4)
    assert states([found]) == [state]
    assert word in found.found


@pytest.mark.parametrize(("kept", "state"), [(True, "ok"), (False, "note"), (None, "ok")])
def test_a_clock_that_nobody_keeps_right(kept: bool | None, state: str) -> None:
    assert states([surroundings.of_time(kept)]) == [state]
    assert surroundings.synchronised() in (True, False, None)


WELL = account.Finding(region="us-east-1", what="account", said="arn:aws:iam::1:user/me")
QUOTA = account.Finding(
    region="us-east-1", what="quota", said="0 of 4 vCPUs", remedy="aws service-quotas …", stops=False
)
DENIED = account.Finding(region="us-east-1", what="launch", said="UnauthorizedOperation", remedy="attach the policy")


@pytest.mark.parametrize(
    ("found", "expected"),
    [([WELL, WELL], ["ok"]), ([WELL, QUOTA], ["note"]), ([WELL, QUOTA, DENIED], ["note", "bad"])],
)
def test_an_account_on_aws(tmp_path: Path, found: list[account.Finding], expected: list[str]) -> None:
    ledger = open_ledger(tmp_path)
    with ledger.write() as tx:
        deployments.put_up(tx, "here", "{name: here, model: ppocr, provider: local}", "here.yaml", NOW)
        deployments.put_up(tx, "rented", RENTED, "rented.yaml", NOW)
    asked: list[str] = []

    def looks(wanted: Spec, home: Path) -> list[account.Finding]:
        asked.append(wanted.name)
        return found

    told = list(surroundings.of_accounts(tmp_path, ledger, looks))
    assert states(told) == expected
    assert asked == ["rented"]
    assert all("rented" in one.found for one in told)


def test_an_account_that_cannot_be_asked(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    with ledger.write() as tx:
        deployments.put_up(tx, "rented", RENTED, "rented.yaml", NOW)

    def looks(wanted: Spec, home: Path) -> list[account.Finding]:
        raise Refused("aws.bucket: there is none")

    (told,) = surroundings.of_accounts(tmp_path, ledger, looks)
    assert states([told]) == ["bad"]
    assert told.remedy == "halve aws check rented.yaml"


@pytest.mark.parametrize(("free", "expected"), [(10**8, "bad"), (10**9, "note"), (10**11, "ok")])
def test_room_on_the_disk(tmp_path: Path, free: int, expected: str) -> None:
    assert states([doctor.of_disk(tmp_path, free)]) == [expected]


def test_a_disk_with_another_clock(tmp_path: Path) -> None:
    assert states([doctor.of_folder(tmp_path / "not" / "yet", SystemClock())]) == ["ok"]
    assert states([doctor.of_folder(tmp_path, VirtualClock(datetime.now(UTC) - timedelta(hours=1)))]) == ["bad"]
    assert not list(tmp_path.iterdir())


def test_a_ledger_that_is_ahead_of_the_clock(tmp_path: Path) -> None:
    assert states(list(doctor.of_ledger(tmp_path, NOW))) == ["ok"]
    assert not (tmp_path / "halve.db").exists()  # asking makes none
    ledger = open_ledger(tmp_path)
    with ledger.write() as tx:
        leases.take(tx, "me", os.getpid(), NOW + timedelta(minutes=1))
        leases.ticked(tx, NOW, None)
    ledger.close()
    assert states(list(doctor.of_ledger(tmp_path, NOW + timedelta(seconds=1)))) == ["ok", "ok"]
    clock, *_ = doctor.of_ledger(tmp_path, NOW - timedelta(hours=3))
    assert (clock.check, clock.state) == ("clock", "bad")
    assert "10800 s ahead" in clock.found


def test_a_ledger_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "halve.db"
    file.write_bytes(b"not a database" * 100)
    (found,) = doctor.of_ledger(tmp_path, NOW)
    assert (found.state, found.found) == ("bad", f"ledger {file}: file is not a database")
    assert "`halve ledger restore FILE` goes back to a copy" in found.remedy
    file.unlink()
    file.mkdir()
    assert states(list(doctor.of_ledger(tmp_path, NOW))) == ["bad"]


@pytest.mark.slow
def test_the_command_exits_1_when_something_stands_in_the_way(tmp_path: Path) -> None:
    def halve(home: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "orchestrator", "doctor", "--json"]
        environment = os.environ | {"HALVE_HOME": str(home)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)

    well = halve(tmp_path)
    bad = [one for one in json.loads(well.stdout) if one["state"] == "bad"]
    assert well.returncode == (1 if bad else 0)
    assert {"processor", "driver", "engine", "port", "disk", "HALVE_HOME", "time", "ledger"} <= {
        one["check"] for one in json.loads(well.stdout)
    }
    (tmp_path / "halve.db").write_bytes(b"not a database" * 100)
    ill = halve(tmp_path)
    assert ill.returncode == 1
    assert [one["check"] for one in json.loads(ill.stdout) if one["state"] == "bad"] == [
        *(b["check"] for b in bad),
        "ledger",
    ]
