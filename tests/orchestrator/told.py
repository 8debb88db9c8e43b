"""A page of the documentation that tells a session: its commands are run again, and every line but the figures has to
be as it stands there.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from orchestrator import machine

#: is told which command is next, and how often it has been by then
Before = Callable[[str, int], None]
PAGES = Path(__file__).resolve().parents[2] / "docs"
#: what depends on the moment: how quickly it came up and went, the day of the month, a bar of progress
PASSING = re.compile(
    r"daemon started|waiting|starting: |\s*ocr-\d+ |the door closes|By day|Of the hours|ledger copied|.*━|\s{30}"
    r"|\s*always open|\s*note: |\s*left alone|\s*until "
)


class Session:
    """A page's commands, each run as it stands there, in a folder and a HALVE_HOME of its own.

    `here` turns the page's names into those of this run, `there` turns them back.
    """

    def __init__(
        self, page: Path, folder: Path, here: Callable[[str], str] = str, there: Callable[[str], str] = str
    ) -> None:
        self._page, self._folder, self._here, self._there = page, folder, here, there
        self.home = folder / "home"
        self.home.mkdir()
        for name, spec in re.findall(r"^`([\w.-]+)`:\n\n```yaml\n(.*?)^```", self.text, re.MULTILINE | re.DOTALL):
            (folder / name).write_text(here(spec))

    @property
    def text(self) -> str:
        return self._page.read_text(encoding="utf-8")

    def run(self, command: str) -> list[str]:
        """What it prints, with the page's names."""
        words = shlex.split(self._here(command))
        assert words[0] == "halve"
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", *words[1:]],
            cwd=self._folder,
            env={**os.environ, "HALVE_HOME": str(self.home), "COLUMNS": "80", "TZ": "Asia/Shanghai"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        said = self._there(done.stdout).replace(str(self.home), "~/.halve").replace(f"{self._folder}/", "")
        said = said.replace(str(self._folder), ".")
        return [line.rstrip() for line in said.splitlines()]

    def _played(self, before: Before) -> Iterator[tuple[str, list[str], list[str]]]:
        """Each command, what the page says that it prints, and what it prints."""
        times: dict[str, int] = {}
        for block in re.findall(r"^```console\n(.*?)^```", self.text, re.MULTILINE | re.DOTALL):
            for shown in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, *printed = shown.splitlines()
                times[command] = times.get(command, 0) + 1
                before(command, times[command])
                yield command, printed, self.run(command)

    def agrees(self, before: Before) -> None:
        """What is printed now is what the page shows."""
        for command, shown, printed in self._played(before):
            assert without_figures(printed) == without_figures(shown), command

    def rewrite(self, before: Before) -> None:
        """Put what was printed now into the page."""
        page, done = self.text, 0  # so far it is rewritten
        for command, shown, printed in self._played(before):
            old, new = ("".join(f"{line}\n" for line in (f"$ {command}", *lines)) for lines in (shown, printed))
            place = page.index(old, done)
            page = page[:place] + new + page[place + len(old) :]
            done = place + len(new)
        self._page.write_text(page, encoding="utf-8")


#: of a page: its session in a folder, which ends with the stack, and what happens between the commands
Staged = Callable[[ExitStack, Path], tuple[Session, Before]]


def rewritten(staged: Staged) -> None:
    """Play a page's session in a folder of its own, and put what was printed into the page."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        session, before = staged(stack, Path(folder))
        session.rewrite(before)


def without_figures(lines: list[str]) -> list[str]:
    """What has to be the same every time: no numbers, no widths, not which processor it is."""
    said = [re.sub(rf"{re.escape(machine.device()[0])}|AMD EPYC", "PROCESSOR", line) for line in lines]
    said = [re.sub(r"\b(replica|folder)s\b", r"\1", line) for line in said]
    said = [re.sub(r"[\d.,:]*\d[\d.,]*", "0", line) for line in said if not PASSING.match(line)]
    said = [re.sub(r"(0[hms] ?)+", "0s", re.sub(r"[─\s]+", " ", line)).strip() for line in said]
    return [line for line in said if line]


def scans(folder: Path, count: int) -> Path:
    """A folder of small invoices."""
    folder.mkdir()
    for number in range(count):
        image = Image.new("RGB", (480, 120), "white")
        ImageDraw.Draw(image).text((20, 40), f"INVOICE {1000 + number}", "black", ImageFont.load_default(40))
        image.save(folder / f"{number + 1:02d}.png")
    return folder
