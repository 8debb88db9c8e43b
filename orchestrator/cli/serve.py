"""halve serve"""

import typer

from orchestrator.cli.engine import BACKEND_HELP, MODEL_HELP, PRECISION_HELP
from orchestrator.errors import Refused


def serve(
    host: str = typer.Option("127.0.0.1", "--host", help="Address to listen on."),
    port: int = typer.Option(7860, "--port", min=0, max=65535, help="Port to listen on; 0 picks a free one."),
    workers: int = typer.Option(None, "--workers", min=1, help="Images read at once. Default: one per core."),
    threads: int = typer.Option(1, "--threads", min=1, help="Threads per worker."),
    model: str = typer.Option("ppocr", "--model", help=MODEL_HELP),
    backend: str = typer.Option("auto", "--backend", help=BACKEND_HELP),
    precision: str = typer.Option("auto", "--precision", help=PRECISION_HELP),
    sources: list[str] = typer.Option(
        [], "--allow-source", help="Where requests may point instead of sending: file:///scans, s3://bucket/prefix."
    ),
) -> None:
    """Serve the engine over HTTP in the foreground.

    Ctrl-C finishes the requests in flight, then ends.

    /healthz says which backend, device and precision really run. With the extra `ui` there is a page at /ui.

    Example: halve serve --port 7860, then: curl -F file=@invoice.png http://127.0.0.1:7860/v1/ocr
    """
    import logging

    from orchestrator.cli.engine import chosen, require_engine

    require_engine()
    from inference import listener, ui
    from inference.service import Settings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    named, computed = chosen(model, backend, precision)
    settings = Settings(
        model=model,
        backend=named,
        precision=computed,
        workers=workers,
        threads=threads,
        sources=tuple(sources),
    )
    page = f", a page at {ui.PATH}" if ui.installed() else ""
    try:
        listener.serve(
            settings,
            host=host,
            port=port,
            listening=lambda url: print(f"{url}  (POST /v1/ocr, GET /healthz, GET /metrics{page})", flush=True),
        )
    except listener.CannotServe as error:
        raise Refused(str(error)) from None
