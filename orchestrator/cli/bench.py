"""halve bench"""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from orchestrator.errors import Refused

if TYPE_CHECKING:
    from inference.bench import Measured


def bench(
    images: Path = typer.Option(None, "--images", help="Folder of images to read. Default: pages drawn here."),
    workers: int = typer.Option(None, "--workers", min=1, help="Images read at once. Default: one per core."),
    threads: int = typer.Option(1, "--threads", min=1, help="Threads per worker."),
    record: bool = typer.Option(False, "--record", help="Add the row to the price/throughput table."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Measure this machine; --record adds its row to the table.

    Example: halve bench --images scans/ --record
    """
    from dataclasses import asdict
    from json import dumps

    from orchestrator.cli.engine import load_engine

    engine = load_engine(threads=threads)
    from inference import bench as benchmark
    from inference.images import BadImage
    from inference.service import cores

    workers = workers or max(1, cores() // threads)
    try:
        files = files_of(images) if images else benchmark.drawn_pages()
        measured = benchmark.measure(engine, files, workers=workers, threads=threads)
    except BadImage as bad:
        raise Refused(f"{images}: an image cannot be read: {bad.reason}") from None
    if record:
        _record(measured)
    if json:
        print(dumps(asdict(measured) | {"recorded": record}, indent=2))
    else:
        _show(measured, recorded=record)


def files_of(folder: Path) -> list[bytes]:
    """The image files of a folder. Raises Refused when there are none."""
    from inference import runner

    try:
        files = [path.read_bytes() for path in runner.images_in(folder)]
    except OSError as error:
        raise Refused(f"{folder}: {error.strerror or error}") from None
    if not files:
        raise Refused(f"{folder}: no images in it")
    return files


def _record(measured: "Measured") -> None:
    from orchestrator import prices

    prices.record_bench(
        model=measured.model,
        gpu=measured.gpu,
        precision=measured.precision,
        batch=measured.batch,
        images_per_second=measured.images_per_second,
        p95_ms=measured.p95_ms,
        memory_bytes=measured.memory_bytes,
        threads=measured.workers * measured.threads,
    )


def _show(measured: "Measured", *, recorded: bool) -> None:
    print(f"{measured.model} ({measured.precision}) on {measured.gpu}, by {measured.provider}")
    if measured.fallback:
        print(measured.fallback)
    print(f"{measured.workers} workers x {measured.threads} threads: {measured.images_per_second:.2f} images/s")
    print(f"95 of 100 images within {measured.p95_ms:.0f} ms; {measured.memory_bytes / 2**20:.0f} MiB at most")
    if recorded:
        print("recorded: see halve gpus --model ppocr")
