"""One machine after it was listed and probed: what we know of it now. Pure; statuses only follow TRANSITIONS."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from orchestrator.ledger import fleet
from orchestrator.ledger.fleet import Machine
from orchestrator.probes import Health
from orchestrator.providers import Listed, State, earliest, recommended
from policies.lifecycle import OVER, Status, move


def reflect(
    machine: Machine,
    listed: Listed | None,
    health: Health | None,
    *,
    leaving: bool,
    listing_deadline: timedelta,
    now: datetime,
) -> Machine:
    """What we know of a machine after it was listed and probed. Pure; the status only follows TRANSITIONS."""
    machine = _none_of_it_to_come(machine, now)
    if listed is None:
        return _unlisted(machine, listing_deadline, now)
    status = machine.status
    if status in OVER and listed.state is State.GONE:
        launched_at = machine.launched_at or listed.launched_at  # it may never have been listed while it lived
        ended_at = max(listed.ended_at or now, launched_at)
        machine = replace(machine, provider_id=listed.provider_id, missing_since=None)
        return replace(machine, launched_at=launched_at, ended_at=ended_at)
    if status in OVER:
        machine = replace(machine, reason=f"listed again after it had {status}", ended_at=None, draining_at=now)
        status = move(status, Status.DRAINING)
    if status is Status.REQUESTED:
        status = move(status, Status.BOOTING)
    machine = _with(
        machine,
        status=status,
        provider_id=listed.provider_id,
        url=listed.url,
        launched_at=machine.launched_at or listed.launched_at,
        missing_since=None,
    )
    if listed.state is State.GONE:
        return _gone(machine, listed, now)
    if status is Status.LOST:
        machine = replace(machine, status=(status := move(status, Status.DRAINING)), draining_at=now)
    if listed.state is State.STOPPED:
        reason = machine.reason if status is Status.STOPPED else "somebody switched it off"
        stopped = status if status is Status.STOPPED else move(status, Status.STOPPED)
        return replace(machine, status=stopped, reason=reason)
    if status is Status.STOPPED or (leaving and status is not Status.DRAINING):
        status = move(status, Status.DRAINING)
        machine = replace(machine, status=status, draining_at=now)
    machine = _with(
        machine,
        reclaim_at=earliest(machine.reclaim_at, listed.reclaim_at, health.reclaim_at if health else None),
        rebalance_at=recommended(machine.rebalance_at, listed.rebalance_at, health.rebalance_at if health else None),
    )
    if status is Status.BOOTING and health is not None and health.ready:
        return replace(machine, status=move(status, Status.READY), ready_at=now)
    if status is Status.READY:
        if health is not None and health.draining:
            return replace(machine, status=move(status, Status.DRAINING), draining_at=now, reason="it drains by itself")
        answers = health is not None and health.ready
        return _with(machine, silent_since=None if answers else machine.silent_since or now)
    return machine


def _with(machine: Machine, **values: Any) -> Machine:
    """The machine with these values; itself when it has them already, which at rest is most of a tick."""
    return (
        machine
        if all(getattr(machine, name) == value for name, value in values.items())
        else replace(machine, **values)
    )


def _none_of_it_to_come(machine: Machine, now: datetime) -> Machine:
    """A clock that was set back leaves moments in the future: what waits since then waits from now on."""

    def at_the_latest_now(at: datetime | None) -> datetime | None:
        return None if at is None else min(at, now)

    return _with(
        machine,
        draining_at=at_the_latest_now(machine.draining_at),
        silent_since=at_the_latest_now(machine.silent_since),
        missing_since=at_the_latest_now(machine.missing_since),
    )


def _unlisted(machine: Machine, listing_deadline: timedelta, now: datetime) -> Machine:
    if machine.status in (Status.REQUESTED, Status.LOST):
        return machine
    since = machine.missing_since or now
    if machine.missing_since is None or now - since <= listing_deadline:
        return replace(machine, missing_since=since)
    return replace(machine, status=move(machine.status, Status.LOST), reason="no longer listed")


def _unknown_end(machine: Machine) -> bool:
    """Whether it was adopted when it was over: why it ended is forgotten with all the rest."""
    return machine.reason == fleet.ADOPTED and machine.ready_at is None


def _gone(machine: Machine, listed: Listed, now: datetime) -> Machine:
    if listed.preempted:
        final, reason = Status.PREEMPTED, listed.detail or "taken back by the provider"
    elif machine.status in (Status.DRAINING, Status.LOST, Status.STOPPED) or _unknown_end(machine):
        final, reason = Status.ENDED, machine.reason
    else:
        final, reason = Status.FAILED, listed.detail or "it ended by itself"
    ended_at = max(listed.ended_at or now, listed.launched_at)
    return replace(machine, status=move(machine.status, final), ended_at=ended_at, reason=reason)
