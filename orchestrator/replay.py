"""Snapshots as JSON and back, so that any decision can be looked at again."""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from policies.snapshot import Snapshot

_ADAPTER = TypeAdapter(Snapshot)


def to_json(snapshot: Snapshot) -> Mapping[str, Any]:
    """The snapshot as plain JSON values."""
    return dict(_ADAPTER.dump_python(snapshot, mode="json"))


def from_json(values: Mapping[str, Any]) -> Snapshot:
    """The snapshot that `to_json` was given. Raises pydantic.ValidationError for one of another shape."""
    return _ADAPTER.validate_python(values)
