"""A folder of images -> a folder of JSON: grouped by size, the longest work first, resumable, as the service reads."""

import asyncio
import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

from inference import images, pages, schema
from inference.batching import CPU_BUCKETS, GPU_BUCKETS, Batcher, Bucket, bucket_of
from inference.engine import Engine
from inference.images import BadImage, File
from inference.pages import Asked, Page

IN_FLIGHT = 3
RETRIES = 2
DRAWN = "drawn"  # the folder in the output folder
UNFINISHED = ".unfinished"  # lies in the output folder while a run is not over; holds what was asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`images` found, `failed` of them not read, `seconds` from the first byte read to the last one written."""

    images: int
    failed: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked of every image: the values by name (None: all pairs), and a drawing of what was found."""

    fields: tuple[str, ...] | None = None
    visualize: bool = False


def page_of(engine: Engine, file: File, wanted: Sequence[str] | None = None) -> dict[str, Any]:
    """One image file as JSON-ready values. Raises BadImage."""
    (page,) = pages.read(engine, [Asked(file=file, wanted=None if wanted is None else tuple(wanted))])
    if isinstance(page, BadImage):
        raise page
    return page.content


def images_in(folder: Path) -> list[Path]:
    """The image files right inside a folder, by name. Hidden files and other kinds are not ours to read."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in images.SUFFIXES)
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def unfinished(engine: Engine, inputs: Sequence[Path], output: Path, wish: Wish) -> bool:
    """Whether a run into this folder was interrupted that asked the same of the same model about the same folder."""
    try:
        return (output / UNFINISHED).read_text(encoding="utf-8") == _terms(engine, inputs, wish)
    except (OSError, ValueError):
        return False


def run(
    engine: Engine,
    inputs: Sequence[Path],
    output: Path,
    *,
    workers: int,
    in_flight: int | None = None,
    retries: int = RETRIES,
    wish: Wish = Wish(),
    resume: bool = False,
    done: Callable[[int, float], None] = lambda count, share: None,
) -> Summary:
    """Write `<file name>.json` for each image, each in one piece, and a line to results.jsonl or errors.jsonl; where
    one is wished, drawn/<file name>.png.

    `in_flight` images (groups of like size, on an accelerator) are worked on or waited for at once, three by default
    or as many as there are workers; their files are read when their turn comes. What fails is tried `retries` times
    again; a bad image is a line in errors.jsonl and stops nothing. With `resume`, what an interrupted run has read is
    kept and only the rest is read, its errors too. `done` hears how many images are behind us, and which share of all
    pixels; first of what was kept. Raises OSError when the output cannot be written, or another run writes there; what
    was written before stays.
    """
    output.mkdir(parents=True, exist_ok=True)
    with _taken(output):
        return asyncio.run(
            _run(engine, inputs, output, workers, in_flight or max(IN_FLIGHT, workers), retries, wish, resume, done)
        )


async def _run(
    engine: Engine,
    inputs: Sequence[Path],
    output: Path,
    workers: int,
    in_flight: int,
    retries: int,
    wish: Wish,
    resume: bool,
    done: Callable[[int, float], None],
) -> Summary:
    clock = asyncio.get_running_loop().time
    started = clock()
    kept = _finished(output, inputs, wish) if resume else {}
    _written(output / UNFINISHED, _terms(engine, inputs, wish))
    _written(output / "results.jsonl", "".join(f"{line}\n" for line in kept.values()))
    sizes = {path: images.size_of(path) for path in inputs}
    rest = [path for path in inputs if path not in kept]
    buckets = GPU_BUCKETS if engine.on_accelerator else CPU_BUCKETS
    with (
        (output / "results.jsonl").open("a", encoding="utf-8") as results,
        (output / "errors.jsonl").open("w", encoding="utf-8") as errors,
    ):
        shelf = _Shelf(output, results, errors, done, {path: width * height for path, (width, height) in sizes.items()})
        shelf.behind(*kept)
        groups = _grouped(rest, sizes, buckets)
        await _work_off(engine, groups, shelf, buckets, min(workers, in_flight), in_flight, retries, wish)
    (output / UNFINISHED).unlink()
    return Summary(images=len(inputs), failed=shelf.failed, seconds=round(clock() - started, 3))


def _terms(engine: Engine, inputs: Sequence[Path], wish: Wish) -> str:
    """A result can be kept for a run that would give the same."""
    folders = sorted({str(path.parent.resolve()) for path in inputs})
    return json.dumps([engine.model, engine.precision, wish.fields, wish.visualize, folders])


@contextmanager
def _taken(output: Path) -> Iterator[None]:
    """The folder is ours alone, as long as this process lives. Raises BlockingIOError when it is another run's."""
    folder = os.open(output, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder)
        raise BlockingIOError(errno.EWOULDBLOCK, "another run writes into this folder", str(output)) from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(folder)


def _grouped(
    paths: Sequence[Path], sizes: Mapping[Path, tuple[int, int]], buckets: Sequence[Bucket]
) -> list[list[tuple[Path, int]]]:
    """Groups that may run together of (path, longest side), the most pixels first: at the end no worker is left alone
    with a long one."""

    def bucket(path: Path) -> int:
        return bucket_of(max(sizes[path]), buckets)

    ordered = sorted(paths, key=lambda path: (bucket(path), sizes[path][0] * sizes[path][1]), reverse=True)
    groups: list[list[tuple[Path, int]]] = []
    for i, members in groupby(ordered, key=bucket):
        those = [(path, max(sizes[path])) for path in members]
        groups += [those[j : j + buckets[i].at_once] for j in range(0, len(those), buckets[i].at_once)]
    return sorted(groups, key=lambda group: sizes[group[0][0]][0] * sizes[group[0][0]][1], reverse=True)


async def _work_off(
    engine: Engine,
    groups: Sequence[list[tuple[Path, int]]],
    shelf: "_Shelf",
    buckets: Sequence[Bucket],
    workers: int,
    in_flight: int,
    retries: int,
    wish: Wish,
) -> None:
    """The first that cannot be written stops all."""
    waiting = iter(groups)
    batcher = Batcher[Path, Page](
        lambda paths: _read(engine, paths, wish), workers=workers, capacity=sum(map(len, groups)), buckets=buckets
    )

    async def consume() -> None:
        for group in waiting:
            await _settle(batcher, group, shelf, retries)

    tasks = [asyncio.create_task(consume()) for _ in range(in_flight)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await batcher.close()


async def _settle(batcher: Batcher[Path, Page], group: list[tuple[Path, int]], shelf: "_Shelf", retries: int) -> None:
    """Put a group on the shelf. A device may fail once, memory may be short for a moment: what failed is tried again;
    a bad image stays one."""
    outcomes = await batcher.outcomes(group, float("inf"))
    again = []
    for (path, side), outcome in zip(group, outcomes, strict=True):
        if isinstance(outcome, Page):
            shelf.put(path, outcome)
        elif isinstance(outcome, BadImage):
            shelf.put_error(path, outcome.reason)
        elif isinstance(outcome, OSError):
            shelf.put_error(path, outcome.strerror or str(outcome))
        elif retries:
            again.append((path, side))
        else:
            shelf.put_error(path, f"reading failed: {outcome}")
    if again:
        await _settle(batcher, again, shelf, retries - 1)


def _read(engine: Engine, paths: Sequence[Path], wish: Wish) -> list[Page | Exception]:
    outcomes: dict[int, Page | Exception] = {}
    asked: dict[int, Asked] = {}
    for i, path in enumerate(paths):
        try:
            asked[i] = Asked(file=File(path.name, path.read_bytes()), wanted=wish.fields, visualize=wish.visualize)
        except OSError as error:
            outcomes[i] = error
    outcomes |= zip(asked, pages.read(engine, list(asked.values())), strict=True)
    return [outcomes[i] for i in range(len(paths))]


def _finished(output: Path, inputs: Sequence[Path], wish: Wish) -> dict[Path, str]:
    """Input -> its line, for what is both in results.jsonl, whole, and a file of its own, written after the image was.

    Names that JSON cannot hold may look alike there: such inputs are kept only all together.
    """
    try:
        written = (output / "results.jsonl").read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return {}
    by_name: dict[str, list[str]] = {}
    for line in written:
        with suppress(ValueError, KeyError, TypeError):  # the run was interrupted in the middle of it
            by_name.setdefault(str(json.loads(line)["original_filename"]), []).append(line)
    alike: dict[str, list[Path]] = {}
    for path in inputs:
        alike.setdefault(schema.printable(path.name), []).append(path)
    found: dict[Path, str] = {}
    for name, paths in alike.items():
        lines = by_name.get(name, [])
        if len(lines) == len(paths) and all(_stands(output, path, wish) for path in paths):
            found |= zip(paths, lines, strict=True)
    return found


def _stands(output: Path, path: Path, wish: Wish) -> bool:
    """Whether what was written of this image is there and of it as it is now."""
    try:
        written = (output / f"{path.name}.json").stat()
        drawn = not wish.visualize or (output / DRAWN / f"{path.name}.png").stat().st_size > 0
        return drawn and written.st_size > 0 and written.st_mtime_ns >= path.stat().st_mtime_ns
    except OSError:
        return False


def _written(file: Path, text: str) -> None:
    """In one piece."""
    partial = file.with_name(".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


class _Shelf:
    """Where results go. Belongs to one event loop."""

    def __init__(
        self,
        folder: Path,
        results: TextIO,
        errors: TextIO,
        done: Callable[[int, float], None],
        pixels: Mapping[Path, int],
    ) -> None:
        self.failed = 0
        self._folder = folder
        self._results = results
        self._errors = errors
        self._done = done
        self._pixels = pixels
        self._total = max(1, sum(pixels.values()))
        self._count = self._read_pixels = 0

    def put(self, path: Path, page: Page) -> None:
        """The drawing first, the JSON next, the line last: what has its line has everything."""
        try:
            if page.drawn is not None:
                (self._folder / DRAWN).mkdir(exist_ok=True)
                (self._folder / DRAWN / f"{path.name}.png").write_bytes(page.drawn)
            text = json.dumps(page.content, ensure_ascii=False, indent=2)
            _written(self._folder / f"{path.name}.json", text + "\n")
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            self.put_error(path, "read, but its name is too long to add .json to")
        else:
            self._line(self._results, page.content)
            self.behind(path)

    def put_error(self, path: Path, reason: str) -> None:
        self.failed += 1
        self._line(self._errors, {"original_filename": schema.printable(path.name), "error": reason})
        self.behind(path)

    def behind(self, *paths: Path) -> None:
        self._count += len(paths)
        self._read_pixels += sum(self._pixels[path] for path in paths)
        self._done(self._count, self._read_pixels / self._total)

    def _line(self, file: TextIO, content: dict[str, Any]) -> None:
        file.write(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n")
        file.flush()
