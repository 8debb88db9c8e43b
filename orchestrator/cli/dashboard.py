"""halve dashboard"""

from pathlib import Path

import typer


def dashboard(
    listen: str = typer.Option("127.0.0.1:7870", "--listen", metavar="HOST:PORT", help="An address on loopback."),
    allow_actions: bool = typer.Option(False, "--allow-actions", help="Let it override, drain and pause."),
    ledger: Path | None = typer.Option(None, "--ledger", metavar="FILE", help="Another ledger than HALVE_HOME's."),
) -> None:
    """Serve pages about what runs, what it costs and why, in the foreground; no daemon is needed.

    The token that it asks for lies in HALVE_HOME/dashboard.token. A spec's `dashboard: {}` has the daemon serve it.

    Example: halve dashboard --listen 127.0.0.1:7870
    """
    import logging

    from orchestrator.clock import SystemClock
    from orchestrator.errors import Refused
    from orchestrator.home import home
    from orchestrator.ledger.store import open_file, open_ledger
    from orchestrator.spec import units

    try:
        units.address(listen)
    except ValueError as error:
        raise typer.BadParameter(f"{listen}: {error}", param_hint="--listen") from None
    if ledger is not None and allow_actions:
        raise typer.BadParameter("a ledger that is only looked at", param_hint="--allow-actions with --ledger")
    try:
        from orchestrator.dashboard.access import token_file
        from orchestrator.dashboard.serving import serve
        from orchestrator.dashboard.site import Settings
    except ModuleNotFoundError as missing:
        raise Refused(f"the dashboard needs {missing.name}: pip install 'halve[dashboard]'") from None
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    opened = open_ledger(home()) if ledger is None else open_file(ledger)

    def say(url: str) -> None:
        print(f"dashboard: {url}, its token: {token_file(home())}", flush=True)

    serve(Settings(home=home(), listen=listen, actions=allow_actions), opened, SystemClock(), say=say)
