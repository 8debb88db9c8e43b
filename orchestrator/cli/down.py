"""halve down"""

import sys

import typer


def down(name: str = typer.Argument(metavar="NAME", help="The deployment's name.")) -> None:
    """Drain a deployment and stop it. The daemon stops with its last deployment.

    Example: halve down ocr
    """
    from orchestrator import control
    from orchestrator.home import home
    from orchestrator.ledger.store import open_ledger

    try:
        control.down(home(), open_ledger(home()), name, lambda line: print(line, file=sys.stderr))
    except KeyboardInterrupt:
        print("halve: interrupted; the daemon goes on taking it down, `halve status` shows it", file=sys.stderr)
        raise SystemExit(130) from None
    print(f"{name} is down")
