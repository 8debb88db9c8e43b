"""halve aws"""

from pathlib import Path

import typer

app = typer.Typer(
    help="Rented machines on AWS: what an account lacks.\n\nExample: halve aws check ocr.yaml",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def aws() -> None:
    """Rented machines on AWS: what an account lacks.

    Example: halve aws check ocr.yaml
    """


@app.command()
def check(
    spec: Path = typer.Argument(metavar="SPEC", help="A deployment with a section aws."),
    json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Say which permission, quota, price, subnet or group is missing, and what to run.

    Starts no machine and opens nothing; this version's wheel is put into the bucket. Exits 1 when something keeps
    machines from starting; a quota that is too small is told, and no more.

    Example: halve aws check ocr.yaml
    """
    from dataclasses import asdict
    from json import dumps

    from orchestrator import cloud
    from orchestrator.home import home
    from orchestrator.spec import load

    place = home()
    place.mkdir(parents=True, exist_ok=True)
    found = cloud.findings(load(spec), place)
    if json:
        print(dumps([asdict(one) for one in found], indent=2, ensure_ascii=False))
    else:
        for one in found:
            state = "ok" if not one.remedy else "bad" if one.stops else "note"
            print(f"{state:4}  {one.region} {one.what}: {one.said}")
            if one.remedy:
                print(f"      -> {one.remedy}")
    if any(one.remedy and one.stops for one in found):
        raise typer.Exit(1)
