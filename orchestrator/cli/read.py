"""halve read"""

from pathlib import Path
from typing import Any

import typer

from orchestrator.cli.engine import BACKEND_HELP, MODEL_HELP, PRECISION_HELP
from orchestrator.errors import Refused


def read(
    images: list[Path] = typer.Argument(..., metavar="IMAGE...", help="Image files."),
    fields: str = typer.Option(None, "--fields", help="Names of the values wanted, separated by commas."),
    prompt: str = typer.Option(None, "--prompt", help="A sentence that quotes those names."),
    model: str = typer.Option("ppocr", "--model", help=MODEL_HELP),
    backend: str = typer.Option("auto", "--backend", help=BACKEND_HELP),
    precision: str = typer.Option("auto", "--precision", help=PRECISION_HELP),
    json: bool = typer.Option(False, "--json", help="Print JSON: one object, or an array for several images."),
) -> None:
    """Read the text of images on this machine.

    Example: halve read invoice.png --fields '发票号码,价税合计'
    """
    from orchestrator.cli.engine import load_engine

    engine = load_engine(model, backend=backend, precision=precision)
    from inference import fields as named
    from inference.images import BadImage, File
    from inference.runner import page_of

    try:
        wanted = named.wanted(fields, prompt)
    except named.BadWish as wish:
        raise Refused(str(wish)) from None
    pages = []
    for path in images:
        try:
            pages.append(page_of(engine, File(path.name, path.read_bytes()), wanted))
        except IsADirectoryError:
            raise Refused(f"{path}: a folder; halve run {path} OUT reads every image in it") from None
        except OSError as error:
            raise Refused(f"{path}: {error.strerror or error}") from None
        except BadImage as bad:
            raise Refused(f"{path}: {bad.reason}") from None
    if json:
        from json import dumps

        print(dumps(pages[0] if len(pages) == 1 else pages, ensure_ascii=False, indent=2))
    else:
        for page in pages:
            _show(page, titled=len(pages) > 1)


def _show(page: dict[str, Any], *, titled: bool) -> None:
    if titled:
        print(f"== {page['original_filename']}")
    print(page["recognized_text"])
    if page["structured_data"]:
        print()
        for name, value in page["structured_data"].items():
            print(f"{name}: {value if value is not None else '(not found)'}")
