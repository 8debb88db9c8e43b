"""halve daemon"""

import typer


def daemon(
    no_wait: bool = typer.Option(False, "--no-wait", help="Exit 1 when another daemon holds the lease."),
) -> None:
    """Run the daemon in the foreground (for systemd). It leaves when its last deployment is down.

    Example: halve daemon --no-wait
    """
    import logging

    from orchestrator.clock import SystemClock
    from orchestrator.daemon import Daemon
    from orchestrator.home import home
    from orchestrator.ledger.store import open_ledger

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for noisy in ("apscheduler", "httpx", "httpcore", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    Daemon(home(), open_ledger(home()), SystemClock()).run(wait=not no_wait)
