"""halve hosts, as others call it, against a real sshd."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.clock import SystemClock
from orchestrator.ledger import deployments
from orchestrator.ledger.store import open_ledger
from orchestrator.providers import Request
from orchestrator.providers.ssh import host as hosts
from orchestrator.providers.ssh.host import Files
from tests.orchestrator.forked import completed
from tests.orchestrator.sshd import Server, offer_of, reached, server, ssh
from tests.orchestrator.test_ssh_troubles import answering
from tests.orchestrator.tiny import end_all, replicas, until


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    """A host that nothing is installed on."""
    with server(tmp_path / "own") as one:
        yield one


def halve(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """As a person with a terminal of 80 columns."""
    environment = {**os.environ, "HALVE_HOME": str(home), "COLUMNS": "80"}
    return completed("orchestrator.cli", "hosts", *arguments, environment=environment)


def added(home: Path, own: Server) -> str:
    """The host's name once it is added by its fingerprint."""
    name = own.host().name
    options = ["--key", str(own.user_key), "--python", sys.executable]
    refused = halve(home, "add", name, *options)
    fingerprint = refused.stderr.split()[-1]
    done = halve(home, "add", name, *options, "--fingerprint", fingerprint)
    assert done.returncode == 0, done.stderr
    assert f"{name} is ready: " in done.stdout
    return name


def test_a_key_is_shown_and_trusted_only_when_its_fingerprint_is_confirmed(home: Path, own: Server) -> None:
    name = own.host().name
    refused = halve(home, "add", name)
    assert refused.returncode == 1
    printed = subprocess.run(
        ["ssh-keygen", "-lf", str(own.folder / "host_key.pub")], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    assert f"{name} shows {printed}" in refused.stdout
    assert refused.stderr.endswith(f"--fingerprint {printed}\n")
    wrong = halve(home, "add", name, "--fingerprint", "SHA256:wrong")
    assert wrong.returncode == 1
    assert "nothing was changed" in wrong.stderr
    assert not (home / "hosts" / "known_hosts").exists()
    assert added(home, own) == name
    assert hosts.recall(home, name) is not None


def test_hosts_are_listed_in_80_columns_and_as_json(home: Path, own: Server) -> None:
    assert halve(home).stdout == "no hosts yet; `halve hosts add ADDRESS` adds one\n"
    name = added(home, own)
    hosts.remember(home, hosts.Host(address="a-machine-with-quite-a-long-name.example.invalid", port=2222))
    shown = halve(home)
    assert shown.returncode == 0, shown.stderr
    assert all(len(line) <= 80 for line in shown.stdout.splitlines())
    assert any(line.startswith(name) and " ready; " in line for line in shown.stdout.splitlines())
    assert "power unknown" in " ".join(shown.stdout.split()) or " W " in shown.stdout
    there = {one["name"]: one for one in json.loads(halve(home, "--json").stdout)}
    assert (there[name]["state"], there[name]["replicas"]) == ("ready", [])
    (other,) = [one for one in there.values() if one["name"] != name]
    assert other["state"] == "unreachable"
    assert "halve hosts trust" in other["why"]


def test_logs_are_those_of_its_replicas(home: Path, own: Server) -> None:
    name = added(home, own)
    assert halve(home, "logs", name).stdout == f"no replica has run on {name} lately\n"
    provider = reached(ssh(home, own.host()))
    provider.launch(Request(token="dead", offer=offer_of(own.host()), payload={"manners": ["dies"]}))
    until(lambda: "the model is not there" in halve(home, "logs", name).stdout)
    assert "==> dead <==" in halve(home, "logs", name).stdout
    assert halve(home, "logs", "nobody").stderr == f"halve: no host is called nobody; there are: {name}\n"


def test_what_is_removed_leaves_nothing_there_and_nothing_here(home: Path, own: Server) -> None:
    name = added(home, own)
    provider = reached(ssh(home, own.host()))
    provider.launch(Request(token="a", offer=offer_of(own.host()), payload={}))
    answering(provider, "a")
    (replica,) = replicas(own.far)
    assert replica.environ()["XDG_CACHE_HOME"].startswith(str(own.far))  # what an engine keeps goes with the rest
    done = halve(home, "remove", name)
    assert (done.returncode, done.stdout) == (0, f"{name}: 1 replica folder removed, nothing is left there\n")
    assert list(own.home.iterdir()) == []
    until(lambda: not own.running())
    assert not Files.of(home, name).folder.exists()
    assert name.replace("127.0.0.1", "[127.0.0.1]") not in (home / "hosts" / "known_hosts").read_text()
    assert halve(home).stdout == "no hosts yet; `halve hosts add ADDRESS` adds one\n"


def test_what_another_installation_has_there_stays(home: Path, own: Server, tmp_path: Path) -> None:
    name, other = added(home, own), tmp_path / "other"
    other.mkdir()
    try:
        provider = reached(ssh(other, own.host()))
        provider.launch(Request(token="a", offer=offer_of(own.host()), payload={}))
        answering(provider, "a")
        done = halve(home, "remove", name)
        assert done.stdout == f"{name}: 0 replica folders removed, another installation's are left\n"
        assert [one.state for one in provider.instances()] == ["running"]
    finally:
        end_all(other)


def test_a_host_that_a_deployment_names_is_not_removed_and_one_that_is_gone_can_be_forgotten(
    home: Path, own: Server
) -> None:
    name = added(home, own)
    ledger = open_ledger(home)
    where = f"ssh: {{hosts: [{{address: 127.0.0.1, port: {own.port}}}]}}"
    text = f"{{name: ocr, model: ppocr, provider: ssh, {where}}}"
    with ledger.write() as tx:
        deployments.put_up(tx, "ocr", text, "spec.yaml", SystemClock().now())
    refused = halve(home, "remove", name)
    assert refused.stderr == f"halve: the spec of ocr names {name}; take it out of there first\n"
    with ledger.write() as tx:
        deployments.take_down(tx, "ocr", SystemClock().now())
    ledger.close()
    own.kill()
    refused = halve(home, "remove", name)
    assert refused.returncode == 1
    assert refused.stderr.endswith(f"halve hosts remove {name} --forget\n")
    assert Files.of(home, name).folder.exists()
    assert halve(home, "remove", name, "--forget").stdout == f"{name}: it was not asked\n"
    assert not Files.of(home, name).folder.exists()
