"""halve profile"""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from inference.profiling import Profile


def profile(
    images: Path = typer.Option(None, "--images", help="Folder of images to read. Default: pages drawn here."),
    threads: int = typer.Option(1, "--threads", min=1, help="Threads of one call."),
    top: int = typer.Option(8, "--top", min=1, help="Rows per table."),
    precisions: bool = typer.Option(False, "--precisions", help="Try every backend and precision; remember the best."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Show where the model's time goes, and what can be cut.

    Nothing is cut that changes what it reads.

    By operation, node and branch, as ONNX Runtime's own profiler says on this machine's CPU. Each exact rewrite is
    tried on the same inputs, and kept only when nothing changes.

    With --precisions: the fastest backend and precision whose text is as good (98 of 100 characters equal, and no fewer
    true ones) is remembered for this device; `--precision auto`, the default of services, means it from then on.

    Example: halve profile --images scans/
    """
    if precisions:
        _precisions(images, threads, as_json=json)
        return
    from dataclasses import asdict
    from json import dumps

    from orchestrator.cli.engine import require_engine
    from orchestrator.errors import Refused

    require_engine()
    from inference import bench, profiling
    from inference.images import BadImage, decode
    from inference.models import WeightsError
    from orchestrator.cli.bar import busy
    from orchestrator.cli.bench import files_of

    try:
        pages = [decode(file) for file in (files_of(images) if images else bench.drawn_pages())]
        with busy("profiling"):
            found = profiling.profile(pages, threads=threads, top=top)
    except BadImage as bad:
        raise Refused(f"{images}: an image cannot be read: {bad.reason}") from None
    except WeightsError as error:
        raise Refused(str(error)) from None
    if json:
        print(dumps([asdict(each) for each in found], indent=2))
        return
    for each in found:
        _show(each)


def _precisions(folder: Path | None, threads: int, *, as_json: bool) -> None:
    from dataclasses import asdict
    from json import dumps

    from rich.console import Console
    from rich.table import Column, Table

    from orchestrator.cli.bar import busy
    from orchestrator.cli.bench import files_of
    from orchestrator.cli.engine import require_engine
    from orchestrator.errors import Refused

    require_engine()
    from inference import bench, choice, runner
    from inference.agreement import known_texts
    from inference.images import BadImage
    from inference.models import WeightsError

    try:
        files = files_of(folder) if folder else bench.drawn_pages()
        truth = known_texts(folder, runner.images_in(folder)) if folder else bench.drawn_texts()
        with busy("trying backends and precisions"):
            trials = choice.tried("ppocr", files, truth, threads=threads)
        file = choice.remember("ppocr", trials)
    except (BadImage, WeightsError, OSError, ValueError) as error:
        raise Refused(f"{folder or 'the drawn pages'}: {error}") from None
    chosen = choice.best(trials)
    if as_json:
        content = {"device": choice.device(), "chosen": asdict(chosen), "trials": [asdict(trial) for trial in trials]}
        print(dumps(content, indent=2))
        return
    table = Table(Column("backend", no_wrap=True), "precision", "ms/image", "characters equal", "true", "")
    for trial in trials:
        equal, true = (
            "" if share is None else f"{share:.2%}" for share in (trial.characters_equal, trial.true_characters)
        )
        speed = "" if trial.milliseconds is None else f"{trial.milliseconds:.0f}"
        said = "chosen" if trial is chosen else trial.reason or ""
        table.add_row(trial.backend, trial.precision, speed, equal, true, said)
    Console().print(table)
    print(f"{choice.device()}: {chosen.backend} in {chosen.precision}, remembered in {file}")


def _show(profile: "Profile") -> None:
    from rich.console import Console
    from rich.table import Column, Table

    console = Console()
    shapes = ", ".join("x".join(map(str, shape)) for shape in profile.samples)
    console.print(f"\n[bold]{profile.network}[/bold]: {profile.seconds * 1000:.0f} ms for {shapes}", highlight=False)
    for title, parts in (
        ("operation", profile.operations),
        ("node", profile.nodes),
        ("branch", profile.branches),
    ):
        table = Table(title, "nodes", "ms", "share")
        for part in parts:
            table.add_row(part.name, str(part.nodes), f"{part.seconds * 1000:.1f}", f"{part.share:.1%}")
        console.print(table)
    table = Table(Column("rewrite", no_wrap=True), "touched", "difference", "kept", "ms before", "ms after")
    for proof in profile.rewrites:
        before, after = (
            "" if seconds is None else f"{seconds * 1000:.0f}"
            for seconds in (proof.seconds_before, proof.seconds_after)
        )
        kept = "yes" if proof.kept else "no" if proof.touched else "nothing to do"
        difference = "" if proof.difference is None else f"{proof.difference:.2g}"
        table.add_row(proof.rewrite, f"{proof.touched:,}", difference, kept, before, after)
    console.print(table)
