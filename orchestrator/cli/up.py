"""halve up"""

import sys
from pathlib import Path

import typer


def up(
    path: Path = typer.Argument(metavar="SPEC", help="The deployment's YAML file."),
    json: bool = typer.Option(False, "--json", help="Print the outcome as JSON."),
) -> None:
    """Keep a spec true: hand it to the live daemon, or start one.

    Returns when the deployment serves or is known to be closed, and says which. Ctrl-C leaves the daemon at work.

    Example: halve up infra/examples/daytime-ocr.yaml
    """
    from json import dumps

    from orchestrator import control
    from orchestrator.home import home
    from orchestrator.ledger.store import open_ledger
    from orchestrator.status import iso

    ledger = open_ledger(home())
    try:
        outcome = control.up(home(), ledger, path, lambda line: print(line, file=sys.stderr))
    except KeyboardInterrupt:
        print("halve: interrupted; the daemon goes on, `halve status` shows it, `halve down` ends it", file=sys.stderr)
        raise SystemExit(130) from None
    if json:
        shown = {
            "deployment": outcome.deployment,
            "url": outcome.url,
            "open": outcome.open,
            "replicas": outcome.replicas,
        }
        print(dumps({**shown, "opens_at": iso(outcome.opens_at), "reason": outcome.reason}, ensure_ascii=False))
    elif outcome.open:
        what = f"{outcome.replicas} replica{'s' * (outcome.replicas != 1)}" if outcome.replicas else outcome.reason
        print(f"{outcome.deployment} serves at {outcome.url} ({what})")
    else:
        until = f" until {outcome.opens_at:%Y-%m-%d %H:%M} UTC" if outcome.opens_at else ""
        print(f"{outcome.deployment} is closed{until}: {outcome.reason}. Its door answers 503 at {outcome.url}")
