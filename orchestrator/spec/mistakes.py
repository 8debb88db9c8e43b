"""What is wrong with the data of a spec, all of it at once and in words.

Contradictions are looked for even when single values are wrong: those are left out first, and a contradiction that
touches anything left out is not reported, since it may be gone once that is mended.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from orchestrator.spec.contradictions import contradictions
from orchestrator.spec.document import Path
from orchestrator.spec.model import Spec
from orchestrator.spec.sections import DEFAULT_CURRENCY

#: what stands in for a required key that is missing or wrong, while the rest is read
_STAND_INS: dict[Path, str] = {
    ("name",): "unnamed",
    ("model",): "unknown",
    ("provider",): "local",
    ("schedule", "timezone"): "UTC",
}
#: their values never appear in a message
_SECRETS = ("token", "alerts")
#: leaving things out may make a section lack something; so often it is tried again without that section
_ROUNDS = 4
_GONE = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """`touched` are the places that cannot be judged until it is mended: what to leave out, then what was meant."""

    path: Path
    message: str
    touched: tuple[Path, ...]


@dataclass(slots=True)
class _Kept:
    """Data without what was left out, and where its list items stood before."""

    data: Any = None
    indexes: dict[Path, list[int]] = field(default_factory=dict)

    def original(self, path: Path) -> Path:
        moved = (self.indexes[path[:i]][part] if isinstance(part, int) else part for i, part in enumerate(path))
        return tuple(moved)


def understood(data: dict[Any, Any]) -> tuple[Spec | None, tuple[Mistake, ...]]:
    """The spec, or what of it can be understood, and all mistakes. No mistakes: the spec is there and whole."""
    data = copy.deepcopy(data)
    currency = data.get("currency", DEFAULT_CURRENCY)
    mistakes: list[Mistake] = []
    for attempt in range(_ROUNDS):
        kept = _without_gone(data)
        try:
            spec = Spec.model_validate(kept.data, context={"currency": currency})
        except ValidationError as error:
            found = [_mistake(details, kept) for details in error.errors(include_url=False)]
            if attempt == 0:
                meant = {mistake.touched[-1] for mistake in found if len(mistake.touched) > 1}
                mistakes = [mistake for mistake in found if mistake.path not in meant]  # misspelt, not missing
            for mistake in found:
                _leave_out(data, mistake.touched[0])
        else:
            return spec, (*mistakes, *_contradictory(spec, kept, mistakes))
    return None, tuple(mistakes)


def _contradictory(spec: Spec, kept: _Kept, mistakes: list[Mistake]) -> Iterator[Mistake]:
    unsure = [path for mistake in mistakes for path in mistake.touched]
    for found in contradictions(spec):
        touched = tuple(kept.original(path) for path in (found.path, *found.others))
        if not any(one[: len(other)] == other[: len(one)] for one in touched for other in unsure):
            yield Mistake(path=touched[0], message=found.message, touched=touched)


def _mistake(details: ErrorDetails, kept: _Kept) -> Mistake:
    here = kept.original(_written(details["loc"], kept.data))
    if details["type"] == "missing":
        absent = (*here, str(details["loc"][-1]))
        return Mistake(path=absent, message="missing", touched=(absent if absent in _STAND_INS else here,))
    if details["type"] == "extra_forbidden":
        message, meant = _unknown(here)
        return Mistake(path=here, message=message, touched=(here, (*here[:-1], meant)) if meant else (here,))
    secret = any(part in _SECRETS for part in here)
    shown = "" if secret or isinstance(details["input"], dict | list) else f"{_quoted(details['input'])}: "
    return Mistake(path=here, message=f"{shown}{_wanted(details)}", touched=(here,))


def _wanted(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    match details["type"]:
        case "value_error":
            return str(context["error"])
        case "literal_error" | "enum":
            names = str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
            close = get_close_matches(str(details["input"]), names, n=1)
            return f"want one of {', '.join(names)}" + (f"; did you mean {close[0]}?" if close else "")
        case "int_type":
            return "want a whole number"
        case "float_type" | "float_parsing" | "decimal_type" | "decimal_parsing" | "finite_number":
            return "want a number"
        case "bool_type" | "bool_parsing":
            return "want true or false"
        case "string_type":
            return "want text (in quotes, if it looks like something else)"
        case "string_too_short":
            return f"want at least {context['min_length']} characters"
        case "string_pattern_mismatch" if details["loc"][0] == "name":
            return "want a-z, 0-9 and - between them, at most 40"
        case "string_pattern_mismatch":
            return 'want an address such as "mailto://..." or "feishu://..."'
        case "tuple_type":
            return "want a list"
        case "too_short":
            return "want at least one"
        case "dict_type" | "model_type" | "model_attributes_type":
            return "want keys and values below it"
        case _:
            return details["msg"].replace("Input should be", "want").replace("Value should", "should")


def _unknown(path: Path) -> tuple[str, str | None]:
    """The message for a key that nobody knows, and the key that was probably meant."""
    key, known = str(path[-1]), list(_section(path[:-1]).model_fields)
    close = get_close_matches(key, known, n=1)
    if close:
        return f"unknown key, did you mean {close[0]}?", close[0]
    homes = [name for name in Spec.model_fields if key in _section((name,)).model_fields and name not in path]
    if len(path) > 1 and key in Spec.model_fields:
        return "unknown key here; it belongs at the top", None
    if len(path) == 1 and homes:
        return f"unknown key here; it belongs under {' or '.join(homes)}", None
    return f"unknown key; known are {', '.join(known)}", None


def _section(path: Path) -> type[BaseModel]:
    """The section at a path: list indexes and the keys of mappings are passed over."""
    section: type[BaseModel] = Spec
    for part in path:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return section


def _section_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part))), None)


def _written(loc: tuple[int | str, ...], data: Any) -> Path:
    """As much of pydantic's location as is really in the data; the rest names its own inner steps."""
    path: list[str | int] = []
    for part in loc:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            break
        path.append(part)
    return tuple(path)


def _leave_out(data: Any, path: Path) -> None:
    for part in path[:-1]:
        data = data[part]
        if data is _GONE:
            return
    data[path[-1]] = _STAND_INS.get(path, _GONE)


def _without_gone(data: Any) -> _Kept:
    kept = _Kept()

    def clean(value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            return {key: clean(part, (*path, key)) for key, part in value.items() if part is not _GONE}
        if isinstance(value, list):
            kept.indexes[path] = [index for index, part in enumerate(value) if part is not _GONE]
            return [clean(value[index], (*path, new)) for new, index in enumerate(kept.indexes[path])]
        return value

    kept.data = clean(data, ())
    return kept


def _quoted(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
