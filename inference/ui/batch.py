"""Many files through the replica, behind everybody who waits for an answer; and what came of them as files."""

import asyncio
import json
import time
import zipfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from inference.images import File
from inference.refusals import Refusal
from inference.schema import printable
from inference.ui.replica import Replica

MOST_FILES = 200
PATIENCE_SECONDS = 600.0  # for one file that is told to come again

Load = Callable[[], Awaitable[File]]
"""A file's name and bytes, when it is its turn. May raise Refusal."""
Draw = Callable[[File, dict[str, Any]], Path]
"""A picture of a file and what was read of it. Run in a thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One file of a batch: what was read and its picture, or why it was not read: the line, and its HTTP status."""

    number: int  # from 0, in the order given
    name: str
    page: dict[str, Any] | None = None
    picture: Path | None = None
    reason: str = ""
    status: int = 200


async def read(
    replica: Replica, files: Sequence[tuple[str, Load]], draw: Draw, *, at_once: int, fields: str = "", prompt: str = ""
) -> AsyncGenerator[Item, None]:
    """Each (name, load) read, in the order in which they are done, `at_once` in flight; those end with the iteration.

    One file a request, at batch priority: online requests pass. What is told to come again does so, for
    PATIENCE_SECONDS.
    """
    turns = asyncio.Semaphore(at_once)

    async def one(number: int, name: str, load: Load) -> Item:
        async with turns:
            try:
                file = await load()
                page = await _patiently(replica, file, fields, prompt)
            except Refusal as refusal:
                return Item(number=number, name=name, reason=refusal.reason, status=refusal.status)
            return Item(number=number, name=name, page=page, picture=await asyncio.to_thread(draw, file, page))

    running = [asyncio.create_task(one(number, *file)) for number, file in enumerate(files)]
    try:
        for done in asyncio.as_completed(running):
            yield await done
    finally:
        for task in running:
            task.cancel()


async def _patiently(replica: Replica, file: File, fields: str, prompt: str) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await replica.read(file, fields=fields, prompt=prompt, online=False)
        except Refusal as refusal:
            if refusal.retry_after_seconds is None or time.monotonic() + refusal.retry_after_seconds > end:
                raise
            await asyncio.sleep(refusal.retry_after_seconds)


def written(items: Iterable[Item], lines: Path, archive: Path) -> None:
    """Into `lines` an object a line, in the order given: pages, and {"original_filename", "error"}. Into `archive` the
    same as results.jsonl, and each page as `<file name>.json`; of one name's files the later ones are numbered."""
    taken: set[str] = set()
    ordered = sorted(items, key=lambda item: item.number)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed, lines.open("w", encoding="utf-8") as text:
        for item in ordered:
            page = item.page or {"original_filename": printable(item.name), "error": item.reason}
            text.write(json.dumps(page, ensure_ascii=False) + "\n")
            if item.page:
                packed.writestr(_free(item.name, taken), json.dumps(item.page, ensure_ascii=False, indent=2))
        text.flush()
        packed.write(lines, "results.jsonl")


def _free(name: str, taken: set[str]) -> str:
    """Of the last part of a path: an archive is unpacked into one folder, by some systems without regard to case."""
    last = PureWindowsPath(printable(name)).name
    last = last if last.strip(".") else "image"
    found, number = f"{last}.json", 1
    while found.casefold() in taken:
        number += 1
        found = f"{last}.{number}.json"
    taken.add(found.casefold())
    return found
