"""Snapshots as JSON and back, so that any decision can be looked at, and made, again."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter

from policies.decide import Policy, decide
from policies.plan import Launch, Plan
from policies.snapshot import Snapshot

_ADAPTER = TypeAdapter(Snapshot)


def to_json(snapshot: Snapshot) -> Mapping[str, Any]:
    """The snapshot as plain JSON values."""
    return dict(_ADAPTER.dump_python(snapshot, mode="json"))


def from_json(values: Mapping[str, Any]) -> Snapshot:
    """The snapshot that `to_json` was given. Raises pydantic.ValidationError for one of another shape."""
    return _ADAPTER.validate_python(values)


def again(values: Mapping[str, Any], wishes: Callable[[datetime, float | None], Policy]) -> Plan:
    """What the policies decide about a snapshot that was kept. They are as they are now, the world is as it was."""
    snapshot = from_json(values)
    return decide(snapshot, wishes(snapshot.now, snapshot.start_seconds))


def differences(plan: Plan, kept: Mapping[str, Any]) -> tuple[str, ...]:
    """The actions, in words, that only one of both has: `kept` is a tick's plan as the ledger has it."""

    def words(kind: str, what: str, reason: str) -> str:
        return f"{kind} {what}: {reason}"

    new = [
        words("launch", one.offer.id, one.reason)
        if isinstance(one, Launch)
        else words(type(one).__name__.lower(), one.instance_id, one.reason)
        for one in plan.actions
    ]
    old = [words(one["kind"], one.get("instance") or one["offer"], one["reason"]) for one in kept["actions"]]
    then = (f"then, not now: {one}" for one in old if one not in new)
    return (*then, *(f"now, not then: {one}" for one in new if one not in old))
