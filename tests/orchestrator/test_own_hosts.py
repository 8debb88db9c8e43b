"""docs/own-hosts.md cannot rot: its session is run again, and every line but the figures has to be as it stands there.

python -m tests.orchestrator.test_own_hosts      runs it, and writes what was printed into the page
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

import pytest
from PIL import Image, ImageDraw, ImageFont

from orchestrator import machine
from tests.orchestrator.sshd import Server, free_port, server
from tests.orchestrator.tiny import end_all, until

PAGE = Path(__file__).resolve().parents[2] / "docs" / "own-hosts.md"
SCANS = 12
#: what is called so on the page
BOXES = ("box1", "box2")


class Session:
    """The page's commands, each run as it stands there; only names and places are those of this run."""

    def __init__(self, folder: Path, servers: dict[str, Server]) -> None:
        self.folder, self.home, self._servers = folder, folder / "home", servers
        self._port = free_port()
        self.home.mkdir()
        page = PAGE.read_text(encoding="utf-8")
        (spec,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
        (folder / "own.yaml").write_text(self._here(spec))
        scans = folder / "scans"
        scans.mkdir()
        for number in range(SCANS):
            image = Image.new("RGB", (480, 120), "white")
            ImageDraw.Draw(image).text((20, 40), f"INVOICE {1000 + number}", "black", ImageFont.load_default(40))
            image.save(scans / f"{number + 1:02d}.png")

    def run(self, command: str) -> list[str]:
        """What it prints, with the page's names."""
        words = shlex.split(self._here(command))
        assert words[0] == "halve"
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", *words[1:]],
            cwd=self.folder,
            env={**os.environ, "HALVE_HOME": str(self.home), "COLUMNS": "80", "TZ": "Asia/Shanghai"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        return [line.rstrip() for line in self._there(done.stdout).splitlines()]

    def _here(self, text: str) -> str:
        text = text.replace("127.0.0.1:7861", f"127.0.0.1:{self._port}")
        for name, one in self._servers.items():
            reached = ["address: 127.0.0.1", f"port: {one.port}", f"key: {one.user_key}", f"python: {sys.executable}"]
            text = re.sub(rf"address: {name}\b.*\n      user: halve", "\n      ".join(reached), text)
            text = text.replace(f"SHA256:{name}", fingerprint(one))
            text = re.sub(rf"\b{name} --user halve", f"{name} --key {one.user_key} --python {sys.executable}", text)
            text = re.sub(rf"\b{name}\b", f"127.0.0.1:{one.port}", text)
        return text

    def _there(self, text: str) -> str:
        for name, one in self._servers.items():
            text = text.replace(fingerprint(one), f"SHA256:{name}").replace(f"127.0.0.1:{one.port}", name)
            text = text.replace(f"port {one.port};", "port 22;")
        text = text.replace(f"127.0.0.1:{self._port}", "127.0.0.1:7861")
        return text.replace(str(self.home), "~/.halve").replace(f"{self.folder}/", "")


def fingerprint(one: Server) -> str:
    printed = subprocess.run(
        ["ssh-keygen", "-lf", str(one.folder / "host_key.pub")], capture_output=True, text=True, check=True
    )
    return printed.stdout.split()[1]


#: what depends on the moment: how quickly it came up and went, the day of the month, a bar of progress
PASSING = re.compile(
    r"daemon started|waiting|starting: |\s*ocr-\d+ |the door closes|By day|Of the hours|ledger copied|.*━"
    r"|\s*always open|\s*note: |\s*left alone|\s*until "
)


def without_figures(lines: list[str]) -> list[str]:
    """What has to be the same every time: no numbers, no widths, not which processor it is."""
    said = [re.sub(rf"{re.escape(machine.device()[0])}|AMD EPYC", "PROCESSOR", line) for line in lines]
    said = [re.sub(r"\breplicas\b", "replica", line) for line in said]
    said = [re.sub(r"[\d.,:]*\d[\d.,]*", "0", line) for line in said if not PASSING.match(line)]
    said = [re.sub(r"(0[hms] ?)+", "0s", re.sub(r"[─\s]+", " ", line)).strip() for line in said]
    return [line for line in said if line]


def played(session: Session, before: Callable[[str, int], None]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each command of the page, what the page says that it prints, and what it prints."""
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    times: dict[str, int] = {}
    for block in blocks:
        for shown in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *printed = shown.splitlines()
            times[command] = times.get(command, 0) + 1
            before(command, times[command])
            yield command, printed, session.run(command)


def staged(stack: ExitStack, folder: Path) -> tuple[Session, Callable[[str, int], None]]:
    """A session with two hosts; before the second `halve status` one of them is gone."""
    servers = {name: stack.enter_context(server(folder / f"of-{number}")) for number, name in enumerate(BOXES)}
    session = Session(folder, servers)
    stack.callback(end_all, session.home)

    def before(command: str, time: int) -> None:
        if (command, time) == ("halve status", 2):
            servers["box2"].lose()
            until(lambda: "refused" in " ".join(session.run("halve status")), 120)
        if command == "halve down ocr":
            servers["box2"].start()

    return session, before


@pytest.mark.slow
def test_the_session_is_as_the_page_shows_it(tmp_path: Path) -> None:
    with ExitStack() as stack:
        session, before = staged(stack, tmp_path)
        for command, shown, printed in played(session, before):
            assert without_figures(printed) == without_figures(shown), command
        found = (tmp_path / "results" / "results.jsonl").read_text().splitlines()
    assert len(found) == SCANS
    assert all("INVOICE" in line for line in found)


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        done = 0  # so far the page is rewritten
        for command, shown, printed in played(*staged(stack, Path(folder))):
            old, new = ("".join(f"{line}\n" for line in (f"$ {command}", *lines)) for lines in (shown, printed))
            place = page.index(old, done)
            page = page[:place] + new + page[place + len(old) :]
            done = place + len(new)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
