"""halve doctor"""

from typing import Literal

import typer


def doctor(json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """Find what stands in the way here, with its remedy.

    Processor, driver, cards and their precisions, whether CUDA really runs, ports, disk, clock, ledger, and the AWS
    account of each deployment that rents there. Exits 1 when something stands in the way; a note does not.

    Example: halve doctor
    """
    import sys
    from dataclasses import asdict
    from json import dumps

    from orchestrator.cli.width import within
    from orchestrator.doctor import examine
    from orchestrator.home import home

    findings = examine(home(), runs=lambda backend: _tried("cuda", backend), loads=lambda: _tried("cpu", "auto"))
    if json:
        print(dumps([asdict(finding) for finding in findings], ensure_ascii=False, indent=2))
    else:
        for finding in findings:
            print(within(f"{finding.state:4}  {finding.check}: {finding.found}", sys.stdout, indent=6))
            if finding.remedy:
                print(within(f"      -> {finding.remedy}", sys.stdout, indent=6))
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


def _tried(accelerator: Literal["cuda", "cpu"], backend: str) -> str | None:
    """Load the default model, in a process of its own: a driver that crashes must not take the doctor with it."""
    import subprocess
    import sys

    command = [sys.executable, "-c", TRY, accelerator, backend]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TRY_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {TRY_SECONDS} s"
    if done.returncode == 0:
        return None
    said = done.stdout.splitlines() or done.stderr.splitlines() or [f"ended with {done.returncode}"]
    return said[-1][:300]


TRY_SECONDS = 120
#: the last line of its output is the reason
TRY = """
import sys
import inference
if absent := inference.absent_packages():
    sys.exit(print("not installed:", ", ".join(absent)) or 1)
from inference import models
try:
    models.load(accelerator=sys.argv[1], backend=sys.argv[2])
except Exception as error:
    sys.exit(print(" ".join(str(error).split())) or 1)
"""
