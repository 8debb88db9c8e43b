"""halve gpus"""

import typer

from orchestrator.errors import Refused

#: as the engine's buckets are named: longest side below 640 pixels, up to 1280, above
SIZES = ("", "small", "middle", "large")


def gpus(
    model: str = typer.Option(
        "cv_resnet18_ocr-detection", "--model", help="Model whose speed counts; `ppocr` is the engine's own."
    ),
    latency: float | None = typer.Option(None, "--latency", min=0.001, max=3600, help="Seconds for 95 of 100 images."),
    size: str = typer.Option("", "--size", help="Speed on images of one size: small, middle or large. Default: all."),
    spot: bool = typer.Option(False, "--spot", help="Compare spot prices too."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Compare GPUs by price over measured throughput.

    A price or a speed that nobody knows is shown as unknown, and such a GPU is never chosen.

    Example: halve gpus --model cv_resnet18_ocr-detection --latency 0.3
    """
    if size not in SIZES:
        raise Refused(f"--size {size}: it is one of {', '.join(SIZES[1:])}")
    from orchestrator import prices
    from orchestrator.home import home
    from orchestrator.ledger.store import open_ledger
    from orchestrator.reports.figures import console
    from orchestrator.reports.gpus import compare, show, to_json

    ledger = open_ledger(home())
    try:
        prices.seed(ledger)
        comparison = compare(ledger, model, latency, spot=spot, size=size)
    finally:
        ledger.close()
    if json:
        from json import dumps

        print(dumps(to_json(comparison), indent=2, ensure_ascii=False))
    else:
        show(comparison, console())
