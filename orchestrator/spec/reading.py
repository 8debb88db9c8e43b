"""A spec file -> Spec, or every reason why not, each on one line with its place."""

from collections.abc import Iterable
from pathlib import Path as FilePath

from orchestrator.errors import Refused
from orchestrator.spec.document import Path, Problem, read
from orchestrator.spec.mistakes import understood
from orchestrator.spec.model import Spec


class SpecErrors(Refused):
    """All that is wrong with a spec. As text: one error a line, `source:line: path: message`."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        lines = [_one_line(source, problem) for problem in self.problems]
        super().__init__("\n".join(lines if len(lines) == 1 else [f"{len(lines)} errors in {source}", *lines]))


_UNREAD = {FileNotFoundError: "no such file", IsADirectoryError: "a folder; name the spec in it"}


def load(path: FilePath | str) -> Spec:
    """The spec in a file. Raises SpecErrors."""
    try:
        raw = FilePath(path).read_bytes()
    except OSError as error:
        reason = _UNREAD.get(type(error)) or f"cannot be read: {error.strerror}"
        raise SpecErrors(str(path), [Problem(path=(), message=reason)]) from None
    return parse(raw, str(path))


def parse(text: str | bytes, source: str = "spec") -> Spec:
    """The spec in a text; `source` is what errors call it. Raises SpecErrors."""
    document = read(text if isinstance(text, bytes) else text.encode())
    if document.data is None:
        raise SpecErrors(source, document.problems)
    spec, mistakes = understood(document.data)
    problems = [Problem(path=m.path, message=m.message, line=_line(m.path, document.lines)) for m in mistakes]
    if spec is None or problems or document.problems:
        raise SpecErrors(source, [*document.problems, *problems])
    return spec


def _line(path: Path, lines: dict[Path, int]) -> int | None:
    """Of the place itself, or of the nearest thing around it that was written."""
    return next((lines[path[:depth]] for depth in range(len(path), 0, -1) if path[:depth] in lines), None)


def _one_line(source: str, problem: Problem) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem.path).lstrip(".")
    at_line = f"{source}:{problem.line}" if problem.line else source
    return ": ".join(part for part in (at_line, place, problem.message) if part)
