"""A folder of images -> a folder of JSON, with as many workers as cores and the longest work first."""

import errno
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from inference import fields, images, schema
from inference.engine import Engine
from inference.images import BadImage, File

RETRIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`images` found, `failed` of them not read, `seconds` from the first byte read to the last one written."""

    images: int
    failed: int
    seconds: float


def page_of(engine: Engine, file: File, wanted: Sequence[str] | None = None) -> dict[str, Any]:
    """One image file as JSON-ready values. Raises BadImage."""
    started = time.perf_counter()
    reading = engine.read([images.decode(file.content)])[0]
    structured = fields.extract(reading.lines, wanted)
    return schema.page(
        file.name,
        reading,
        structured,
        milliseconds=(time.perf_counter() - started) * 1000,
        model=engine.model,
        precision=engine.precision,
    )


def images_in(folder: Path) -> list[Path]:
    """The image files right inside a folder, by name. Hidden files and other kinds are not ours to read."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in images.SUFFIXES)
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def run(
    engine: Engine,
    inputs: Sequence[Path],
    output: Path,
    *,
    workers: int,
    resume: bool = False,
    done: Callable[[int], None] = lambda count: None,
) -> Summary:
    """Write `<file name>.json` for each image, each in one piece, and a line to results.jsonl or errors.jsonl.

    A bad image is a line in errors.jsonl and stops nothing. With `resume`, what an interrupted run has read is kept and
    only the rest is read, its errors too. `done` hears how many images are behind us.
    Raises OSError when the output cannot be written; what was written before stays.
    """
    output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    kept = _finished(output) if resume else {}
    rest = [path for path in inputs if schema.printable(path.name) not in kept]
    # the most pixels first: at the end no worker is left alone with a long one
    queue = deque(sorted(rest, key=images.pixels_in, reverse=True))
    with (output / "results.jsonl").open("w") as results, (output / "errors.jsonl").open("w") as errors:
        results.writelines(f"{line}\n" for line in kept.values())
        shelf = _Shelf(output, results, errors, done, behind=len(inputs) - len(rest))
        _work_off(engine, queue, shelf, workers)
    return Summary(images=len(inputs), failed=shelf.failed, seconds=round(time.perf_counter() - started, 3))


def _finished(output: Path) -> dict[str, str]:
    """File name -> its line, for what is both in results.jsonl, whole, and a file of its own."""
    try:
        lines = (output / "results.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        try:
            name = str(json.loads(line)["original_filename"])
        except (ValueError, KeyError, TypeError):  # the run was interrupted in the middle of it
            continue
        if (output / f"{name}.json").is_file():
            found[name] = line
    return found


class _Shelf:
    """Where results go. Several workers put things there."""

    def __init__(self, folder: Path, results: TextIO, errors: TextIO, done: Callable[[int], None], behind: int) -> None:
        self.failed = 0
        self._folder = folder
        self._results = results
        self._errors = errors
        self._done = done
        self._count = behind
        self._lock = threading.Lock()

    def put(self, name: str, page: dict[str, Any]) -> None:
        partial = self._folder / f".{threading.get_ident()}.partial"
        try:
            partial.write_text(json.dumps(page, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
            partial.replace(self._folder / f"{name}.json")
        finally:
            partial.unlink(missing_ok=True)
        self._line(self._results, page)

    def put_error(self, name: str, reason: str) -> None:
        with self._lock:
            self.failed += 1
        self._line(self._errors, {"original_filename": schema.printable(name), "error": reason})

    def _line(self, file: TextIO, content: dict[str, Any]) -> None:
        with self._lock:
            file.write(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")
            file.flush()
            self._count += 1
            self._done(self._count)


def _work_off(engine: Engine, queue: deque[Path], shelf: _Shelf, workers: int) -> None:
    """Every worker takes from the one queue until it is empty. The first that cannot write stops all."""

    def work() -> None:
        try:
            while (path := _next(queue)) is not None:
                _read_one(engine, path, shelf)
        except BaseException:
            queue.clear()
            raise

    with ThreadPoolExecutor(workers, thread_name_prefix="engine") as threads:
        running = [threads.submit(work) for _ in range(workers)]
        try:
            for worker in running:
                worker.result()
        finally:
            queue.clear()


def _next(queue: deque[Path]) -> Path | None:
    try:
        return queue.popleft()
    except IndexError:
        return None


def _read_one(engine: Engine, path: Path, shelf: _Shelf) -> None:
    try:
        page = _page_of(engine, File(path.name, path.read_bytes()), RETRIES)
    except BadImage as bad:
        shelf.put_error(path.name, bad.reason)
    except OSError as error:
        shelf.put_error(path.name, error.strerror or str(error))
    except Exception as error:  # noqa: BLE001  one page the networks choke on must not take the others with it
        shelf.put_error(path.name, f"reading failed: {error}")
    else:
        try:
            shelf.put(path.name, page)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            shelf.put_error(path.name, "read, but its name is too long to add .json to")


def _page_of(engine: Engine, file: File, retries: int) -> dict[str, Any]:
    """A device may fail once, memory may be short for a moment; a bad image stays one."""
    try:
        return page_of(engine, file)
    except BadImage:
        raise
    except Exception:
        if not retries:
            raise
        return _page_of(engine, file, retries - 1)
