"""halve run"""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from orchestrator.cli.engine import BACKEND_HELP, MODEL_HELP, PRECISION_HELP
from orchestrator.errors import Refused

if TYPE_CHECKING:
    from rich.progress import Progress


def run(
    input_dir: Path = typer.Argument(..., metavar="INPUT_DIR", help="Folder with the images."),
    output_dir: Path = typer.Argument(..., metavar="OUTPUT_DIR", help="Folder for the results; made when absent."),
    fields: str = typer.Option(None, "--fields", help="Names of the values wanted: 'A,B'."),
    prompt: str = typer.Option(None, "--prompt", help="The same in words, the names in quotes."),
    visualize: bool = typer.Option(False, "--visualize", help="Draw what was found: OUTPUT_DIR/drawn/<file name>.png."),
    workers: int = typer.Option(None, "--workers", min=1, help="Images read at once. Default: one per core."),
    threads: int = typer.Option(1, "--threads", min=1, help="Threads per worker."),
    in_flight: int = typer.Option(
        None, "--in-flight", min=1, help="Images (on a GPU: batches) begun at once. Default: 3, or one per worker."
    ),
    retries: int = typer.Option(2, "--retries", min=0, help="How often a failure is tried again."),
    fresh: bool = typer.Option(False, "--fresh", help="Read all again, even after an interrupted run."),
    model: str = typer.Option("ppocr", "--model", help=MODEL_HELP),
    backend: str = typer.Option("auto", "--backend", help=BACKEND_HELP),
    precision: str = typer.Option("auto", "--precision", help=PRECISION_HELP),
    json: bool = typer.Option(False, "--json", help='Print {"images","failed","seconds"}.'),
) -> None:
    """Read every image of a folder into another folder.

    Writes <file name>.json per image, results.jsonl and errors.jsonl. Exits 1 when some images could not be read. The
    same command again after an interruption reads only what is missing.

    Example: halve run scans/ results/ --workers 2
    """
    from dataclasses import asdict
    from json import dumps

    from orchestrator.cli.engine import load_engine, require_engine

    require_engine()
    from inference import fields as named
    from inference import runner
    from inference.service import cores

    try:
        wish = runner.Wish(fields=named.wanted(fields, prompt), visualize=visualize)
        found = runner.images_in(input_dir)
    except named.BadWish as bad:
        raise Refused(str(bad)) from None
    except OSError as error:
        raise Refused(f"{input_dir}: {error.strerror or error}") from None
    engine = load_engine(model, threads=threads, backend=backend, precision=precision)
    with _progress() as progress:
        task = progress.add_task("", total=1.0, images=0, of=len(found), rate="")
        kept: int | None = None

        def done(count: int, share: float) -> None:
            nonlocal kept
            if kept is None:
                kept = count
                progress.reset(task, images=count, of=len(found), rate="")
            seconds = progress.tasks[task].elapsed or 0.0
            rate = f"{(count - kept) / seconds:.1f}/s" if seconds else ""
            progress.update(task, completed=share, images=count, rate=rate)

        try:
            summary = runner.run(
                engine,
                found,
                output_dir,
                workers=workers or max(1, cores() // threads),
                in_flight=in_flight,
                retries=retries,
                wish=wish,
                resume=not fresh and runner.unfinished(engine, found, output_dir, wish),
                done=done,
            )
        except OSError as error:
            raise Refused(
                f"{error.filename or output_dir}: {error.strerror or error}; results so far are kept"
            ) from None
    if json:
        print(dumps(asdict(summary)))
    else:
        rate = summary.images / summary.seconds if summary.seconds else 0.0
        print(f"{summary.images} images, {summary.failed} failed, {summary.seconds:.1f} s ({rate:.2f} images/s)")
        if summary.failed:
            print(f"see {output_dir / 'errors.jsonl'}")
    if summary.failed:
        raise typer.Exit(1)


def _progress() -> "Progress":
    """Images, rate and time left, which goes by pixels because the largest come first; nothing but on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.fields[images]} of {task.fields[of]}"), BarColumn(), TextColumn("{task.fields[rate]}"))
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
