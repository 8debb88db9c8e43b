"""YAML text -> plain data that remembers its lines. The only module that parses YAML.

Scalars follow YAML 1.2: `NO` is Norway, not false; `08:00` is text, not 480; a date is text until read as one.
"""

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]

#: limits against a file that is no spec, or a hostile one
MOST_BYTES = 256 * 1024
MOST_NODES = 20_000
DEEPEST = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a spec. `path` is () for the file as a whole, `line` counts from 1."""

    path: Path
    message: str
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a YAML text says; `data` is None when it could not be read at all."""

    data: dict[Any, Any] | None
    lines: dict[Path, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2, without merge keys; a mapping's keys are text as written."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own form)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


_INT = "[-+]?[0-9]{1,18}"
_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
for _tag, _pattern, _first in (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(str(node.value)))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(str(node.value)))


def read(raw: bytes) -> Document:
    """Never raises: what is wrong is in the problems, all of it that can be found."""
    if len(raw) > MOST_BYTES:
        return _broken(f"{len(raw):,} bytes is no spec: at most {MOST_BYTES:,}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _broken(f"not UTF-8 text (at byte {error.start + 1})", raw[: error.start].count(b"\n") + 1)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return _broken("empty: want at least name, model and provider")
        walked = list(_walk(node))
        data = loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        return _broken(f"not YAML: {' '.join(what.split())}", mark.line + 1 if mark else None)
    except (RecursionError, ValueError) as error:
        return _broken(f"not a spec: {error}" if isinstance(error, ValueError) else "not a spec: nested too deeply")
    lines: dict[Path, int] = {}
    twice: dict[Path, str] = {}
    for path, line in walked:
        if path in lines and not any(path[:depth] in twice for depth in range(len(path))):
            twice[path] = f"given twice, first on line {lines[path]}"
        lines[path] = line  # of the last one: it is the one that is read
    problems = (Problem(path=path, message=message, line=lines[path]) for path, message in twice.items())
    if not isinstance(data, dict):
        kind = "a list" if isinstance(data, list) else "one value"
        return _broken(f"want keys such as name: and model:, not {kind}", 1)
    return Document(data=data, lines=lines, problems=tuple(problems))


def _walk(root: yaml.Node) -> Iterator[tuple[Path, int]]:
    """(path, line) of every key and list item; a key that comes twice comes twice. An alias is walked like a copy."""
    stack: list[tuple[yaml.Node, Path]] = [(root, ())]
    seen = 0
    while stack:
        node, path = stack.pop()
        children: list[tuple[yaml.Node, Path, int]] = []
        if isinstance(node, yaml.MappingNode):
            children = [(value, (*path, str(key.value)), key.start_mark.line + 1) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            children = [(item, (*path, index), item.start_mark.line + 1) for index, item in enumerate(node.value)]
        seen += len(children)
        if seen > MOST_NODES or len(path) > DEEPEST:
            raise ValueError("nested too deeply, or far too long")
        yield from ((path, line) for _, path, line in children)
        stack.extend((value, path) for value, path, _ in reversed(children))


def _broken(message: str, line: int | None = None) -> Document:
    return Document(data=None, problems=(Problem(path=(), message=message, line=line),))
