"""halve bench"""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from orchestrator.cli.engine import BACKEND_HELP, MODEL_HELP
from orchestrator.errors import Refused

if TYPE_CHECKING:
    from inference.bench import Measured, Start

MOST_IMAGES = 64  # of one call


def bench(
    images: Path = typer.Option(None, "--images", help="Folder of images to read. Default: pages drawn here."),
    workers: int = typer.Option(None, "--workers", min=1, help="Calls at once. Default: one per core."),
    threads: int = typer.Option(1, "--threads", min=1, help="Threads per worker."),
    model: str = typer.Option("ppocr", "--model", help=MODEL_HELP),
    backend: str = typer.Option("auto", "--backend", help=BACKEND_HELP),
    precisions: str = typer.Option("fp32", "--precision", help="fp32, bf16, fp16, or several: fp32,bf16."),
    batches: str = typer.Option(None, "--batch", help="Images a call: 1,4. Default: 1; on a GPU up to 16 by size."),
    seconds: float = typer.Option(3.0, "--seconds", min=0.1, help="Least measuring time of a row."),
    record: bool = typer.Option(False, "--record", help="Add the rows to the price/throughput table."),
    ablate: bool = typer.Option(False, "--ablate", help="Measure each of the engine's measures: one row per switch."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Measure this machine; --record adds its rows to the table.

    One row for all images together, which decisions count with, and one for each size (longest side below 640 pixels,
    up to 1280, above), batch and precision. A start is cold from nothing, warm in a process that is up.

    With --ablate: speed, memory, agreement and accuracy of each measure, on the CPU with one thread. Texts that are
    known (of the pages drawn here, or from ground_truth.json in the folder) are compared with what is read.

    Example: halve bench --images scans/ --record
    """
    if ablate:
        _ablate(images, workers, as_json=json)
        return
    from dataclasses import asdict
    from json import dumps

    from orchestrator.cli.bar import busy
    from orchestrator.cli.engine import require_engine
    from orchestrator.clock import SystemClock

    require_engine()
    from inference import bench as benchmark
    from inference import models
    from inference.images import BadImage

    try:
        files = files_of(images) if images else benchmark.drawn_pages()
        with busy("measuring"):
            rows, start = _measured(
                files, model, backend, precisions.split(","), _numbers(batches), workers, threads, seconds
            )
    except BadImage as bad:
        raise Refused(f"{images}: an image cannot be read: {bad.reason}") from None
    except (models.UnknownModel, models.WeightsError) as error:
        raise Refused(str(error)) from None
    # a spec names a card by its absolute path, and asks the table by what it names
    named = str(Path(model).expanduser().absolute()) if models.is_card(model) else rows[0].model
    if record:
        for row in rows:
            _record(row, named)
    if json:
        sized = [asdict(row) for row in rows]
        at = SystemClock().now().isoformat(timespec="seconds").replace("+00:00", "Z")
        print(dumps({"measured_at": at} | sized[0] | asdict(start) | {"recorded": record, "rows": sized}, indent=2))
    else:
        _show(rows, start, recorded=named if record else None)


def _measured(
    files: list[bytes],
    model: str,
    backend: str,
    precisions: list[str],
    batches: list[int] | None,
    workers: int | None,
    threads: int,
    seconds: float,
) -> "tuple[list[Measured], Start]":
    """The rows, that of all images in the first precision first; and how long a start takes in it."""
    from typing import cast, get_args

    from inference import bench as benchmark
    from inference import models
    from inference.backends import Backend, Precision
    from inference.service import cores

    for name, given, known in (("backend", [backend], Backend), ("precision", precisions, Precision)):
        if unknown := set(given) - set(get_args(known)):
            raise Refused(f"--{name} {min(unknown)}: it is one of {', '.join(get_args(known))}")
    rows: list[Measured] = []
    for precision in precisions:
        engine = models.load(
            model, threads=threads, backend=cast("Backend", backend), precision=cast("Precision", precision)
        )
        rows += benchmark.table(
            engine,
            files,
            workers=workers or max(1, cores() // threads),
            threads=threads,
            batches=batches,
            least_seconds=seconds,
        )
    start = benchmark.start(
        model,
        files[0],
        threads=threads,
        backend=cast("Backend", backend),
        precision=cast("Precision", precisions[0]),
    )
    return rows, start


def _numbers(listed: str | None) -> list[int] | None:
    if listed is None:
        return None
    try:
        numbers = [int(number) for number in listed.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1 or max(numbers) > MOST_IMAGES:
        raise Refused(f"--batch {listed}: numbers from 1 to {MOST_IMAGES}, with commas between")
    return numbers


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


def _record(measured: "Measured", model: str) -> None:
    from orchestrator import prices

    prices.record_bench(
        model=model,
        gpu=measured.gpu,
        precision=measured.precision,
        batch=measured.batch,
        images_per_second=measured.images_per_second,
        p95_ms=measured.p95_ms,
        memory_bytes=measured.gpu_memory_bytes or measured.memory_bytes,
        threads=measured.workers * measured.threads,
        size=measured.size,
    )


def _show(rows: "list[Measured]", start: "Start", *, recorded: str | None) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    first = rows[0]
    print(f"{first.model} on {first.gpu}, by {first.provider}: {first.workers} workers x {first.threads} threads")
    if first.fallback:
        print(first.fallback)
    heads = ("batch", "images/s", "p95 ms", "MiB", "GPU MiB", "J/image")
    table = Table(Column("size"), Column("precision"), *(Column(head, justify="right") for head in heads))
    for row in rows:
        table.add_row(
            row.size or "all",
            row.precision,
            str(row.batch),
            f"{row.images_per_second:.2f}",
            f"{row.p95_ms:.0f}",
            f"{row.memory_bytes / 2**20:.0f}",
            "unknown" if row.gpu_memory_bytes is None else f"{row.gpu_memory_bytes / 2**20:.0f}",
            "unknown" if row.joules_per_image is None else f"{row.joules_per_image:.2f}",
        )
    Console().print(table)
    print(f"start: {start.cold_seconds:.1f} s cold, {start.warm_seconds:.1f} s warm, first image included")
    if recorded:
        print(f"recorded: see halve gpus --model {recorded}")


def _ablate(folder: Path | None, workers: int | None, *, as_json: bool) -> None:
    from dataclasses import asdict
    from json import dumps

    from rich.console import Console
    from rich.table import Column, Table

    from orchestrator.cli.engine import require_engine

    require_engine()
    from inference import ablation, runner
    from inference import bench as benchmark
    from inference.agreement import known_texts
    from inference.images import BadImage
    from inference.models import WeightsError
    from inference.service import cores
    from orchestrator.cli.bar import busy

    files = files_of(folder) if folder else benchmark.drawn_pages()
    try:
        truth = known_texts(folder, runner.images_in(folder)) if folder else benchmark.drawn_texts()
        with busy("measuring"):
            rows = ablation.ablate(files, truth if any(truth) else None, workers=workers or cores())
    except (BadImage, WeightsError, ValueError, OSError) as error:
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
