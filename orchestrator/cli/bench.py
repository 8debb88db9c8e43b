"""halve bench"""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from orchestrator.errors import Refused

if TYPE_CHECKING:
    from inference.ablation import Page
    from inference.bench import Measured


def bench(
    images: Path = typer.Option(None, "--images", help="Folder of images to read. Default: pages drawn here."),
    workers: int = typer.Option(None, "--workers", min=1, help="Images read at once. Default: one per core."),
    threads: int = typer.Option(1, "--threads", min=1, help="Threads per worker."),
    record: bool = typer.Option(False, "--record", help="Add the row to the price/throughput table."),
    ablate: bool = typer.Option(False, "--ablate", help="Measure each of the engine's measures: one row per switch."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Measure this machine; --record adds its row to the table.

    With --ablate: speed, memory, agreement and accuracy of each measure, on the CPU with one thread. Texts that are
    known (of the pages drawn here, or from ground_truth.json in the folder) are compared with what is read.

    Example: halve bench --images scans/ --record
    """
    if ablate:
        _ablate(images, workers, as_json=json)
        return
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


def _ablate(folder: Path | None, workers: int | None, *, as_json: bool) -> None:
    from dataclasses import asdict
    from json import dumps

    from rich.console import Console
    from rich.table import Column, Table

    from orchestrator.cli.engine import require_engine

    require_engine()
    from inference import ablation
    from inference import bench as benchmark
    from inference.images import BadImage
    from inference.models import WeightsError
    from inference.service import cores

    files, truth = (files_of(folder), _truth(folder)) if folder else (benchmark.drawn_pages(), benchmark.drawn_texts())
    try:
        rows = ablation.ablate(files, truth, workers=workers or cores())
    except (BadImage, WeightsError) as error:
        raise Refused(f"{folder or 'the drawn pages'}: {error}") from None
    if as_json:
        print(dumps([asdict(row) for row in rows], indent=2))
        return
    heads = (
        "ms/image",
        "CPU ms",
        "images/s",
        "speed",
        "MiB",
        "lines equal",
        "characters",
        "true lines",
        "true characters",
    )
    table = Table(Column("switch", no_wrap=True), *(Column(head, justify="right") for head in heads))
    for row in rows:
        shares = (row.lines_equal, row.characters_equal, row.true_lines, row.true_characters)
        table.add_row(
            row.switch,
            f"{row.latency_ms:.0f}",
            f"{row.cpu_ms:.0f}",
            f"{row.images_per_second:.2f}",
            f"{row.speed:.2f}x",
            f"{row.memory_bytes / 2**20:.0f}",
            *("" if share is None else f"{share:.1%}" for share in shares),
        )
    Console().print(table)


def _truth(folder: Path) -> "list[Page] | None":
    """What ground_truth.json says stands on each image: {NAME: {"instances": [{"polygon": [x, y, ...], "text"}]}}."""
    from json import loads

    from inference import runner

    try:
        known = loads((folder / "ground_truth.json").read_text(encoding="utf-8"))
        return [
            [
                (one["text"], tuple(zip(one["polygon"][::2], one["polygon"][1::2], strict=True)))
                for one in known.get(path.name, {}).get("instances", [])
                if one["text"] and not one.get("ignore")
            ]
            for path in runner.images_in(folder)
        ]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{folder / 'ground_truth.json'}: cannot be read: {error}") from None
