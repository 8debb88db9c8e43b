"""This machine as a provider: what only it can do wrong."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest

from orchestrator.clock import VirtualClock
from orchestrator.files import read_json, write_json
from orchestrator.providers import Misconfigured, Request, State, Throttled
from orchestrator.providers.local import KEEP_ENDED, KILL_AFTER, LocalProvider, engine_command, held, is_held
from tests.orchestrator.test_providers import end, gone, listed
from tests.orchestrator.tiny import THIS_MACHINE, fill, local, replicas, small_disk, until

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_it_answers_where_it_says(home: Path) -> None:
    provider = local(home)
    provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    url = until(lambda: listed(provider, "a").url)
    assert httpx.get(f"{url}/healthz", trust_env=False).json()["status"] == "ready"


def test_kill_9_of_a_replica_is_seen_at_once_with_its_last_words(home: Path) -> None:
    provider = local(home)
    provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    (process,) = replicas(home)
    with (home / "replicas" / "a" / "engine.log").open("a") as log:
        log.write("a line\nthe last words\n\n")
    process.kill()
    process.wait(60)
    found = listed(provider, "a")
    assert (found.state, found.detail) == (State.GONE, "the last words")


def test_a_full_disk_hides_no_end_and_moves_none(tmp_path: Path) -> None:
    """Found with a host that was lost and came back with a full disk: what had run there was listed for ever."""
    clock = VirtualClock(NOW)
    with small_disk(tmp_path / "disk", "1m") as disk:
        provider = local(disk, clock=clock)
        provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
        (process,) = replicas(disk)
        until(lambda: listed(provider, "a").url)
        filler = fill(disk)
        process.kill()
        process.wait(60)
        clock.sleep(5)
        found = gone(provider, "a")
        clock.sleep(60)
        assert listed(provider, "a") == found
        filler.unlink()
        clock.sleep(60)
        assert listed(provider, "a") == found
        assert listed(local(disk, clock=clock), "a") == found  # it is noted now


def test_a_replica_that_ignores_sigterm_is_killed(home: Path) -> None:
    clock = VirtualClock(NOW)
    provider = local(home, "deaf", clock=clock)
    provider_id = provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    until(lambda: listed(provider, "a").url)
    end(provider, provider_id)
    clock.sleep(KILL_AFTER.total_seconds() - 1)
    end(provider, provider_id)
    (process,) = replicas(home)
    with pytest.raises(psutil.TimeoutExpired):
        process.wait(0.3)
    clock.sleep(1)
    end(provider, provider_id)
    gone(provider, "a")


def test_a_child_that_holds_on_to_the_lock_is_ended_too(home: Path) -> None:
    """The replica is killed, the process that does its work is not: it would hold its memory, and the lock, forever."""
    provider = local(home, "forks")
    provider_id = provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    until(lambda: listed(provider, "a").url)
    assert len(replicas(home)) == 2
    leader = next(process for process in replicas(home) if process.ppid() == os.getpid())
    leader.kill()
    leader.wait(60)
    assert listed(provider, "a").state is State.RUNNING
    end(provider, provider_id)
    gone(provider, "a")
    assert replicas(home) == []


def test_a_pid_that_was_given_out_again_is_nobody_of_ours(home: Path) -> None:
    """Every note in the folder names a stranger; the lock and the token do not."""
    stranger = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    try:
        provider = local(home)
        provider_id = provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
        until(lambda: listed(provider, "a").url)
        (mine,) = replicas(home)
        forged = {"pid": stranger.pid, "create_time": psutil.Process(stranger.pid).create_time()}
        write_json(home / "replicas" / "a" / "process.json", forged)
        announced = read_json(home / "replicas" / "a" / "announce.json") or {}
        write_json(home / "replicas" / "a" / "announce.json", {**announced, **forged})
        end(local(home), provider_id)
        mine.wait(60)
        gone(provider, "a")
        assert stranger.poll() is None
        assert listed(local(home), "a").state is State.GONE  # the stranger does not bring it back
        end(local(home), provider_id)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_copied_home_does_not_end_what_the_original_runs(home: Path) -> None:
    """It has the same installation key, and so the same tokens."""
    copy = home / "copy"
    copy.mkdir()
    for each in (home, copy):
        local(each).launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    until(lambda: len(replicas(home)) == 2)
    end(local(copy), "a")
    gone(local(copy), "a")
    assert listed(local(home), "a").state is State.RUNNING


def test_a_crash_between_the_note_and_the_start_is_a_machine_that_ended(home: Path) -> None:
    """`started.json` was written, the process never came: the token is used up, nothing runs, the listing says so."""
    folder = home / "replicas" / "a"
    folder.mkdir(parents=True)
    write_json(folder / "started.json", {"launched_at": NOW.isoformat(), "payload": {}})
    clock = VirtualClock(NOW + timedelta(seconds=5))
    provider = local(home, clock=clock)
    assert provider.launch(Request(token="a", offer=THIS_MACHINE, payload={})) == "a"
    found = listed(provider, "a")
    assert (found.state, found.launched_at, found.ended_at) == (State.GONE, NOW, NOW + timedelta(seconds=5))
    assert replicas(home) == []


def test_a_crash_before_the_note_leaves_nothing_behind(home: Path) -> None:
    (home / "replicas" / "a").mkdir(parents=True)
    (home / "replicas" / "a" / "lock").touch()
    provider = local(home)
    assert list(provider.instances()) == []
    provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    assert listed(provider, "a").state is State.RUNNING


def test_who_only_looks_does_not_keep_others_from_starting_for_good(home: Path) -> None:
    """The lock is taken by somebody who has not started anything: neither `launched` nor two machines."""
    folder = home / "replicas" / "a"
    folder.mkdir(parents=True)
    provider = local(home)
    with held(folder / "lock"), pytest.raises(Throttled):
        provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    assert list(provider.instances()) == []
    provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    assert listed(provider, "a").state is State.RUNNING


def test_lookers_do_not_see_each_other(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    with ThreadPoolExecutor(8) as threads:
        assert not any(threads.map(lambda _: is_held(tmp_path / "lock"), range(2000)))


def test_a_program_that_is_not_there_is_a_misconfiguration(home: Path) -> None:
    clock = VirtualClock(NOW)
    provider = LocalProvider(home, clock, THIS_MACHINE, lambda payload, announce: [str(home / "no-such-program")])
    with pytest.raises(Misconfigured, match="no-such-program"):
        provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))


def test_ended_replicas_are_forgotten_after_some_days(home: Path) -> None:
    clock = VirtualClock(NOW)
    provider = local(home, "dies", clock=clock)
    provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    assert gone(provider, "a").detail == "the model is not there"
    clock.sleep(KEEP_ENDED.total_seconds() + 1)
    assert list(provider.instances()) == []
    assert list((home / "replicas").iterdir()) == []


def test_a_replica_gets_none_of_the_daemons_secrets(home: Path) -> None:
    code = "import os, sys; sys.exit(' '.join(sorted(os.environ)))"
    provider = LocalProvider(
        home, VirtualClock(NOW), THIS_MACHINE, lambda payload, announce: [sys.executable, "-S", "-c", code]
    )
    os.environ["HALVE_TEST_SECRET"] = "1"
    try:
        provider.launch(Request(token="a", offer=THIS_MACHINE, payload={}))
    finally:
        del os.environ["HALVE_TEST_SECRET"]
    assert {"HALVE_REPLICA", "PATH"} <= set(gone(provider, "a").detail.split())
    assert "HALVE_TEST_SECRET" not in gone(provider, "a").detail


def test_the_engines_command_is_a_function_of_the_payload(tmp_path: Path) -> None:
    payload = {"deployment": "ocr", "model": "ppocr", "engine": {"workers": 2, "threads": 1}, "offer": "local/this"}
    again = json.loads(json.dumps(payload))
    command = engine_command(payload, tmp_path / "announce.json")
    assert command == engine_command(again, tmp_path / "announce.json")
    assert command[1:3] == ["-m", "inference"]
    assert command[-6:] == ["--model", "ppocr", "--workers", "2", "--threads", "1"]
    payload = {"model": "/cards/a.yaml", "engine": {"threads": 1, "precision": "bf16", "backend": "openvino"}}
    wanted = ["--model", "/cards/a.yaml", "--backend", "openvino", "--precision", "bf16", "--threads", "1"]
    assert engine_command(payload, tmp_path / "announce.json")[-8:] == wanted
