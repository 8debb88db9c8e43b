"""docs/own-hosts.md cannot rot: its session is run again, and every line but the figures has to be as it stands there.

python -m tests.orchestrator.test_own_hosts      runs it, and writes what was printed into the page
"""

import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.orchestrator.ports import free_port
from tests.orchestrator.sshd import Server, server
from tests.orchestrator.tiny import end_all, until
from tests.orchestrator.told import PAGES, Before, Session, rewritten, scans

SCANS = 12
#: what is called so on the page
BOXES = ("box1", "box2")


def staged(stack: ExitStack, folder: Path) -> tuple[Session, Before]:
    """A session with two hosts; before the second `halve status` one of them is gone."""
    servers = {name: stack.enter_context(server(folder / f"of-{number}")) for number, name in enumerate(BOXES)}
    port = free_port()

    def here(text: str) -> str:
        text = text.replace("127.0.0.1:7861", f"127.0.0.1:{port}")
        for name, one in servers.items():
            reached = ["address: 127.0.0.1", f"port: {one.port}", f"key: {one.user_key}", f"python: {sys.executable}"]
            text = re.sub(rf"address: {name}\b.*\n      user: halve", "\n      ".join(reached), text)
            text = text.replace(f"SHA256:{name}", fingerprint(one))
            text = re.sub(rf"\b{name} --user halve", f"{name} --key {one.user_key} --python {sys.executable}", text)
            text = re.sub(rf"\b{name}\b", f"127.0.0.1:{one.port}", text)
        return text

    def there(text: str) -> str:
        for name, one in servers.items():
            text = text.replace(fingerprint(one), f"SHA256:{name}").replace(f"127.0.0.1:{one.port}", name)
            text = text.replace(f"port {one.port};", "port 22;")
        return text.replace(f"127.0.0.1:{port}", "127.0.0.1:7861")

    session = Session(PAGES / "own-hosts.md", folder, here, there)
    scans(folder / "scans", SCANS)
    stack.callback(end_all, session.home)

    def before(command: str, time: int) -> None:
        if (command, time) == ("halve status", 2):
            servers["box2"].lose()
            until(lambda: "refused" in " ".join(session.run("halve status")), 120)
        if command == "halve down ocr":
            servers["box2"].start()

    return session, before


def fingerprint(one: Server) -> str:
    printed = subprocess.run(
        ["ssh-keygen", "-lf", str(one.folder / "host_key.pub")], capture_output=True, text=True, check=True
    )
    return printed.stdout.split()[1]


@pytest.mark.slow
def test_the_session_is_as_the_page_shows_it(tmp_path: Path) -> None:
    with ExitStack() as stack:
        session, before = staged(stack, tmp_path)
        session.agrees(before)
        found = (tmp_path / "results" / "results.jsonl").read_text().splitlines()
    assert len(found) == SCANS
    assert all("INVOICE" in line for line in found)


if __name__ == "__main__":
    rewritten(staged)
