"""`make bench`: every benchmark that prints ratios against a named opponent, or the ones named on the command line."""

import importlib
import sys

BENCHMARKS = (
    "command_line",
    "loop",
    "daemon",
    "door",
    "jobs",
    "engine",
    "selection",
    "backtest_job",
    "backtest_serve",
    "report",
    "dashboard",
    "memory",
)


def main() -> None:
    for name in sys.argv[1:] or BENCHMARKS:
        print(f"\n== {name}", flush=True)
        importlib.import_module(f"tests.benchmarks.{name}").main()


if __name__ == "__main__":
    main()
