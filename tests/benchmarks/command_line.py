"""How long the command line takes to answer, against a bare interpreter in the same run."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 15
MUST, AIM = 12.0, 8.0


def main() -> None:
    """Print medians of whole processes and their ratios to `python -c pass`, taken in turns."""
    halve = str(Path(sys.executable).with_name("halve"))
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "halve --version": [halve, "--version"],
        "halve --help": [halve, "--help"],
        "python -c 'import typer'": [sys.executable, "-c", "import typer"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            seconds[name].append(time.perf_counter() - started)
    bare = statistics.median(seconds["python -c pass"])
    for name, measured in seconds.items():
        median = statistics.median(measured)
        print(f"{name:26} {median * 1000:7.1f} ms  {median / bare:5.1f} x bare")
    print(f"must be at most {MUST:.0f} x, the aim is {AIM:.0f} x")


if __name__ == "__main__":
    main()
