"""Processes forked from one in which our modules are imported: real ones, without the second that imports take.

What is proven of a process that starts from nothing is proven elsewhere: each command once, by `test_comfort`.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "tests.orchestrator.driven",
        "tests.orchestrator.driven_ssh",
        "tests.orchestrator.batch",
        *(f"orchestrator.cli.{name}" for name in ("daemon", "down", "hosts", "job", "override", "status", "up", "why")),
        "orchestrator.status",
        "orchestrator.control",
    ]
)


class Forked:
    """`module`'s main() in a process of its own, with the words of `subprocess.Popen`.

    What it says on standard output is added to the file `out`, on standard error to `err`. Its folder is `folder`.
    """

    def __init__(
        self,
        module: str,
        *arguments: object,
        out: Path,
        err: Path | None = None,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        words = [str(one) for one in arguments]
        whole = dict(os.environ if environment is None else environment)
        given = (module, words, str(out), str(err or out), str(folder or Path.cwd()), whole)
        out.touch()  # there at once, as whoever reads it expects
        self._process = CONTEXT.Process(target=_main, args=given, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, or the negative number of the signal that ended it. Raises TimeoutExpired."""
        self._process.join(timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def completed(
    module: str, *arguments: object, environment: Mapping[str, str], timeout: float = 250.0
) -> subprocess.CompletedProcess[str]:
    """Run to its end, as `subprocess.run` does."""
    with TemporaryDirectory(prefix="halve-forked-") as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = Forked(module, *arguments, out=out, err=err, environment=environment)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(arguments, code, out.read_text("utf-8"), err.read_text("utf-8"))


def _main(module: str, words: list[str], out: str, err: str, folder: str, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    sys.argv = [module, *words]
    import_module(module).main()
