"""halve export"""

from pathlib import Path

import typer

from orchestrator.errors import Refused


def export(
    model: str = typer.Argument(..., metavar="MODEL", help="cv_resnet18_ocr-detection or ppocr."),
    output: Path = typer.Argument(..., metavar="OUTPUT", help="The file to write, *.onnx."),
    checkpoint: Path = typer.Option(
        None, "--checkpoint", help="A ModelScope checkpoint. Default: where models are kept."
    ),
    fp16: bool = typer.Option(False, "--fp16", help="Write half precision; the loss is measured and printed."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Write a model's detector as an ONNX file for any size and batch.

    The file is compared with torch first.

    Example: halve export cv_resnet18_ocr-detection detector.onnx --fp16
    """
    from dataclasses import asdict
    from importlib.util import find_spec
    from json import dumps

    from orchestrator.cli.engine import require_engine

    require_engine()
    if find_spec("torch") is None:
        raise Refused("export compares with torch, which is not installed: pip install 'halve[torch]'")
    from inference import models
    from inference.export import ExportFailed
    from inference.export import export as exported
    from orchestrator.cli.bar import busy

    if model not in models.NAMES:
        raise Refused(f"no model named {model!r} to export; there is {', '.join(models.NAMES)}")
    if checkpoint and model.startswith("ppocr"):
        raise Refused(f"--checkpoint: {model} has none; its files come with rapidocr")
    try:
        with busy("exporting and comparing"):
            found = exported(model, output, checkpoint=checkpoint, fp16=fp16)
    except (models.WeightsError, ExportFailed) as error:
        raise Refused(str(error)) from None
    except OSError as error:
        raise Refused(f"{output}: {error.strerror or error}") from None
    if json:
        print(dumps(asdict(found), indent=2))
        return
    print(f"{found.path}: {found.bytes / 2**20:.1f} MiB, {found.precision}, sha256 {found.sha256}")
    print(
        f"against torch: largest difference {found.loss.largest:.2g}, mean {found.loss.mean:.2g},"
        f" {found.loss.crossed or 0:.4%} of pixels change side"
    )
