"""Talking to the daemon: hand it a spec, start one when none lives, and wait for what was asked."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from orchestrator import alerts, cloud, engines, hosts, prices, spec
from orchestrator.clock import SystemClock
from orchestrator.door.client import Door
from orchestrator.doorway import published
from orchestrator.errors import Refused
from orchestrator.holder import is_alive, is_dead
from orchestrator.ledger import deployments, fleet, leases, ticks
from orchestrator.ledger.deployments import Deployment
from orchestrator.ledger.store import Ledger, Transaction, is_simulated, mark_simulated
from orchestrator.spec import Spec
from policies.lifecycle import Status
from policies.placement import POLICIES

START_SECONDS = 60.0  # who ends is heard of at once
UP_SECONDS = 600.0  # a machine has as long to become ready
DOWN_SECONDS = 300.0
LEAVE_SECONDS = 15.0
#: ticks that may fail before `halve up` stops waiting for the daemon to recover
PATIENT_ERRORS = 10
POLL_SECONDS = 0.1
#: what this version can do; the spec's language is wider
BUILT = {
    "provider": ("local", "ssh", "aws", "simulated"),
    "spot.policy": tuple(POLICIES),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What `halve up` has to say: serving at `url`, or closed there until `opens_at`."""

    deployment: str
    url: str
    open: bool
    replicas: int
    opens_at: datetime | None
    reason: str


def check(wanted: Spec, home: Path) -> None:
    """Raise Refused for what would keep this spec from running here, before anything is started."""
    if "simulated" in wanted.provider and len(set(wanted.provider)) > 1:
        raise Refused("provider: simulated and real money never mix; name simulated alone, or leave it out")
    asked = {
        "provider": wanted.provider,
        "spot.policy": (wanted.spot.policy,) if wanted.spot else (),
    }
    for key, values in asked.items():
        for value in values:
            if value not in BUILT[key]:
                raise Refused(f"{key}: {value} is not part of this version; use {' or '.join(BUILT[key])}")
    if wanted.alerts:
        alerts.check(wanted.alerts)
    if {"local", "ssh"} & {*wanted.provider}:
        engines.check(wanted, home)
    if "ssh" in wanted.provider:
        hosts.check(wanted, home)
    if "aws" in wanted.provider:
        cloud.check(wanted)
    door = Door(home, wanted.name).running()
    if wanted.door.port and (door is None or door.listen != wanted.door.listen):
        with socket.socket(socket.AF_INET6 if ":" in wanted.door.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((wanted.door.host, wanted.door.port))
            except OSError as error:
                raise Refused(
                    f"door.listen: {wanted.door.listen}: {error.strerror}; free it, or set door.listen in the spec"
                ) from None


def without_effect(wanted: Spec) -> tuple[str, ...]:
    """The spec's keys that this version takes and does nothing with: to be said aloud."""
    idle = {
        "simulated.preemptions_per_day": bool(wanted.simulated.preemptions_per_day),
        "aws.queue": wanted.aws is not None and bool(wanted.aws.queue),
    }
    return tuple(f"{key} has no effect on a running deployment in this version" for key, set_ in idle.items() if set_)


def up(home: Path, ledger: Ledger, path: Path, say: Callable[[str], None]) -> Outcome:
    """Keep the spec at `path` true, and return once it serves or is known to be closed. Raises Refused otherwise."""
    wanted = spec.load(path)
    check(wanted, home)
    clock = SystemClock()
    now = clock.now()
    for note in (*wanted.calendar_notes(now.year, now.year + 1), *without_effect(wanted)):
        say(f"note: {note}")
    prices.seed(ledger)
    with ledger.write() as tx:
        _keep_apart(tx, wanted, home)
        deployments.put_up(tx, wanted.name, path.read_text(encoding="utf-8"), str(path), now)
        before = leases.held(tx)
    since = clock.now()
    started = ensure_daemon(home, ledger, say)
    deadline = time.monotonic() + UP_SECONDS
    said = ""
    while time.monotonic() < deadline:
        outcome, waiting_for = _outcome(home, ledger, wanted, since, before)
        if outcome is not None:
            return outcome
        if waiting_for != said:
            say(waiting_for)
            said = waiting_for
        if started is None:
            started = ensure_daemon(home, ledger, say)  # the one that lived may have been about to leave
        elif started.poll() is not None:
            raise Refused(f"the daemon ended: {last_line(home / 'daemon.log')}; its log is {home / 'daemon.log'}")
        time.sleep(POLL_SECONDS)
    raise Refused(f"{wanted.name} does not serve after {UP_SECONDS:.0f} s: {said}; `halve why {wanted.name}` says more")


def _keep_apart(tx: Transaction, wanted: Spec, home: Path) -> None:
    """Mark a ledger by its first deployment. Raises Refused where simulated and real money would mix."""
    simulated = "simulated" in wanted.provider
    if simulated and not deployments.known(tx):
        mark_simulated(tx)
    if is_simulated(tx) != simulated:
        mine, theirs = ("simulated", "real") if simulated else ("real", "simulated")
        raise Refused(f"{wanted.name} is {mine}, and {home} holds {theirs} money; give it a HALVE_HOME of its own")


def _outcome(
    home: Path, ledger: Ledger, wanted: Spec, since: datetime, before: leases.Lease | None
) -> tuple[Outcome | None, str]:
    """The outcome, if it is known yet, and else what is being waited for. Raises Refused when its ticks only fail."""
    with ledger.read() as tx:
        lease = leases.held(tx)
        machines = fleet.machines(tx, wanted.name)
        tick = ticks.last(tx, wanted.name)
    if lease is None or lease.last_tick_at is None or lease.last_tick_at <= since:
        return None, "waiting for the daemon's first tick"
    errors = lease.tick_errors
    if before is not None and before.generation == lease.generation:
        errors -= before.tick_errors
    trouble = lease.last_error if errors and f" {wanted.name}: " in (lease.last_error or "") else None
    if trouble and errors >= PATIENT_ERRORS:
        raise Refused(f"the daemon's ticks fail: {trouble}; its log is {home / 'daemon.log'}")
    process, serving = Door(home, wanted.name).running(), published(home, wanted.name)
    if process is None or serving is None:
        return None, trouble or "waiting for the door"
    ready = [machine for machine in machines if machine.status is Status.READY]
    if not serving.open or ready:
        outcome = Outcome(
            deployment=wanted.name,
            url=process.url,
            open=serving.open,
            replicas=len(ready),
            opens_at=serving.opens_at,
            reason=serving.reason,
        )
        return outcome, ""
    if tick is not None and tick.target == 0 and not ready:
        idle = Outcome(
            deployment=wanted.name,
            url=process.url,
            open=True,
            replicas=0,
            opens_at=None,
            reason="idle: the first request wakes it",
        )
        return idle, ""
    states = ", ".join(f"{machine.id} {machine.status}" for machine in machines)
    notes = "; ".join(tick.plan["notes"]) if tick is not None else ""
    return None, notes or (f"starting: {states}" if states else "nothing is being launched yet")


def ensure_daemon(home: Path, ledger: Ledger, say: Callable[[str], None]) -> "subprocess.Popen[bytes] | None":
    """Start a detached daemon unless one lives. Returns the process that was started, if it holds the lease."""
    clock = SystemClock()
    with ledger.read() as tx:
        if is_alive(leases.held(tx), clock.now()):
            return None
    with (home / "daemon.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "daemon", "--no-wait"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home,
            env={**os.environ, "HALVE_HOME": str(home)},
            start_new_session=True,
        )
    say(f"daemon started: pid {child.pid}, log {home / 'daemon.log'}")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        ended = child.poll() is not None  # before the lease is looked at: it ends when somebody else has taken that
        with ledger.read() as tx:
            held = leases.held(tx)
        if held is not None and is_alive(held, clock.now()):
            return child if held.pid == child.pid else None  # somebody was quicker: ours leaves by itself
        if ended:
            raise Refused(f"the daemon ended: {last_line(home / 'daemon.log')}; its log is {home / 'daemon.log'}")
        time.sleep(POLL_SECONDS)
    raise Refused(f"the daemon took no lease within {START_SECONDS:.0f} s; its log is {home / 'daemon.log'}")


def down(home: Path, ledger: Ledger, name: str, say: Callable[[str], None]) -> None:
    """Drain a deployment, end its machines and its door, and wait until nothing of it costs money."""
    find(ledger, name)
    with ledger.write() as tx:
        deployments.take_down(tx, name, SystemClock().now())
    deadline = time.monotonic() + DOWN_SECONDS
    said = ""
    while time.monotonic() < deadline:
        with ledger.read() as tx:
            machines = fleet.machines(tx, name)
        if not machines and Door(home, name).running() is None:
            return _see_off(ledger)
        states = ", ".join(f"{machine.id} {machine.status}" for machine in machines) or "the door closes"
        if states != said:
            say(states)
            said = states
        ensure_daemon(home, ledger, say)  # whoever kills it meanwhile, what runs is taken down
        time.sleep(POLL_SECONDS)
    raise Refused(f"{name} is not down after {DOWN_SECONDS:.0f} s: {said}; the daemon goes on trying")


def _see_off(ledger: Ledger) -> None:
    """Wait for the daemon to leave when that was its last deployment, so that nothing runs any more."""
    deadline = time.monotonic() + LEAVE_SECONDS
    while time.monotonic() < deadline:
        with ledger.read() as tx:
            lease = leases.held(tx)
            last = not fleet.machines(tx) and all(row.wanted == "down" for row in deployments.known(tx))
        if not last or lease is None or is_dead(lease.owner):
            return
        time.sleep(POLL_SECONDS)


def find(ledger: Ledger, name: str) -> Deployment:
    """The deployment of that name. Raises Refused, naming those that there are."""
    with ledger.read() as tx:
        row = deployments.get(tx, name)
        others = ", ".join(one.name for one in deployments.known(tx)) or "none yet"
    if row is None:
        raise Refused(f"no deployment is called {name}; there are: {others}")
    return row


def last_line(log: Path) -> str:
    """The last line of a log file; empty when there is none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
