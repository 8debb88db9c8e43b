"""halve daemon"""

import typer

#: this machine alone; the port after the dashboard's
METRICS = "127.0.0.1:7871"


def daemon(
    no_wait: bool = typer.Option(False, "--no-wait", help="Exit 1 when another daemon holds the lease."),
    metrics: str = typer.Option(
        METRICS,
        "--metrics",
        envvar="HALVE_METRICS",
        metavar="HOST:PORT",
        help="Where Prometheus may ask; off: nowhere.",
    ),
    log_json: bool = typer.Option(
        False, "--log-json", envvar="HALVE_LOG_JSON", help="Log JSON, a line each, for machines."
    ),
) -> None:
    """Run the daemon in the foreground (for systemd). It leaves when its last deployment is down.

    GET /metrics there is what Prometheus scrapes, GET /targets where doors and replicas are. When the default address
    is taken (by the daemon of another HALVE_HOME), it says so once it acts and goes on without.

    Example: halve daemon --no-wait --log-json
    """
    import contextlib
    import logging

    from orchestrator import exposition, logs
    from orchestrator.clock import SystemClock
    from orchestrator.daemon import Daemon
    from orchestrator.errors import Refused
    from orchestrator.home import home
    from orchestrator.ledger.store import open_ledger

    logs.to_stderr(as_json=log_json)
    ledger, clock = open_ledger(home()), SystemClock()
    measured = exposition.Exposition(home(), ledger, clock)
    with contextlib.ExitStack() as stack:

        def answering() -> Refused | None:
            try:
                stack.enter_context(exposition.served(measured, metrics))
            except Refused as refusal:
                if metrics != METRICS:
                    raise
                return refusal
            return None

        missed = None if metrics == "off" else answering()

        def timed() -> contextlib.AbstractContextManager[object]:
            """It acts: the daemon that it stood by for, and that had the address, has left."""
            nonlocal missed
            if missed is not None:
                if refusal := answering():
                    logging.getLogger("halve.daemon").warning("%s", refusal)
                missed = None
            return measured.timed()

        Daemon(home(), ledger, clock, timed=timed).run(wait=not no_wait)
