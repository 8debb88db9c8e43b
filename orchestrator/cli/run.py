"""halve run"""

from pathlib import Path

import typer

from orchestrator.cli.engine import MODEL_HELP
from orchestrator.errors import Refused


def run(
    input_dir: Path = typer.Argument(..., metavar="INPUT_DIR", help="Folder with the images."),
    output_dir: Path = typer.Argument(..., metavar="OUTPUT_DIR", help="Folder for the results; made when absent."),
    workers: int = typer.Option(None, "--workers", min=1, help="Images read at once. Default: one per core."),
    threads: int = typer.Option(1, "--threads", min=1, help="Threads per worker."),
    model: str = typer.Option("ppocr", "--model", help=MODEL_HELP),
    backend: str = typer.Option("auto", "--backend", help="auto, onnxruntime or torch."),
    json: bool = typer.Option(False, "--json", help='Print {"images","failed","seconds"}.'),
) -> None:
    """Read every image of a folder into another folder.

    Writes <file name>.json per image, results.jsonl and errors.jsonl. Exits 1 when some images could not be read.

    Example: halve run scans/ results/ --workers 2
    """
    from dataclasses import asdict
    from json import dumps

    from rich.console import Console

    from orchestrator.cli.engine import load_engine, require_engine

    require_engine()
    from inference import runner
    from inference.service import cores

    try:
        found = runner.images_in(input_dir)
    except OSError as error:
        raise Refused(f"{input_dir}: {error.strerror or error}") from None
    engine = load_engine(model, threads=threads, backend=backend)
    with Console(stderr=True).status(f"0 of {len(found)}") as status:
        try:
            summary = runner.run(
                engine,
                found,
                output_dir,
                workers=workers or max(1, cores() // threads),
                done=lambda count: status.update(f"{count} of {len(found)}"),
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
