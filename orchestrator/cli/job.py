"""halve job"""

import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from orchestrator.cli.counting import countable

if TYPE_CHECKING:
    from orchestrator.ledger.jobs import Job
    from orchestrator.ledger.store import Ledger

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Submit and follow batches.\n\nExample: halve job submit scans/ --out results/",
)

ID = typer.Argument(metavar="ID", callback=countable, help="The job's number.")
JSON = typer.Option(False, "--json", help="Print JSON.")
#: between two looks at a job that is waited for
LOOK_SECONDS = 0.5


@app.command()
def submit(
    source: str = typer.Argument(
        metavar="SRC",
        help="A folder with its subfolders, a quoted glob, a .csv or .jsonl of paths, or s3://BUCKET/PREFIX.",
    ),
    out: str = typer.Option(..., "--out", metavar="DST", help="Folder, made when absent, or s3://… for the results."),
    deployment: str = typer.Option(None, "--deployment", metavar="NAME", help="Who reads. Default: the only one."),
    fields: str = typer.Option("", "--fields", metavar="A,B", help="Extract these fields of each image."),
    deadline: str = typer.Option(
        "", "--deadline", metavar="TIME", help="6h, HH:MM, or YYYY-MM-DD HH:MM in the schedule's zone: read by then."
    ),
    budget: str = typer.Option(
        None, "--budget", metavar="AMOUNT", help="20, or 20 CNY: stop when it has cost so much."
    ),
    wait: bool = typer.Option(False, "--wait", help="Wait for its end; Ctrl-C leaves it running."),
    json: bool = JSON,
) -> None:
    """Have many images read by a deployment's replicas.

    Writes DST/<name>.json per image at once, results.jsonl and errors.jsonl at the end.
    With --wait it exits 1 when some images could not be read. A deadline that cannot be met is refused.

    Example: halve job submit scans/ --out results/ --fields 甲方,金额 --deadline 6h --budget 20
    """
    import sys

    from orchestrator import jobs
    from orchestrator.clock import SystemClock
    from orchestrator.jobs import asking, words

    ledger = _ledger()
    now = SystemClock().now()
    wanted = [name.strip() for name in fields.split(",") if name.strip()]
    due = _moment(ledger, deployment, deadline, now) if deadline else None
    job = jobs.submit(ledger, deployment, source, out, wanted, now, due, budget=budget)
    if not json:
        print(
            f"job {job.id}: {job.total} images of {words.plain(job.source)} -> {words.plain(job.destination)}",
            flush=True,
        )
    if due is not None:
        from orchestrator.jobs import promise

        if promise.is_unmeasured(ledger, job.deployment, now):
            why = f"nobody has measured how fast {job.deployment} reads"
            print(f"halve: the deadline is no promise: {why}; `halve bench --record` does", file=sys.stderr)
    nobody = asking.unattended(ledger, job.deployment, now)
    if nobody is not None:
        print(f"halve: job {job.id} is recorded; {nobody}", file=sys.stderr)
    failed = wait and (nobody is not None or not _wait(ledger, job.id))
    if json:
        now = SystemClock().now()
        _print_json(asking.values(*asking.look(ledger, job.id, now), now))
    if failed:
        raise typer.Exit(1)


@app.command("list")
def list_(json: bool = JSON) -> None:
    """List all jobs.

    Example: halve job list
    """
    from rich.console import Console
    from rich.table import Table

    from orchestrator.clock import SystemClock
    from orchestrator.jobs import asking, words

    now = SystemClock().now()
    found = [asking.values(*one, now) for one in asking.look_at_all(_ledger(), now)]
    if json:
        _print_json(found)
        return
    if not found:
        print("no jobs yet; `halve job submit SRC --out DST` makes one")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("job", "deployment", "state", "done", "failed", "of", "left", "destination"):
        right = name in ("job", "done", "failed", "of")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for one in found:
        counts = (str(one[key]) for key in ("done", "failed", "items"))
        left = words.duration(one["eta_seconds"]) if one["state"] == "running" else ""
        table.add_row(str(one["id"]), one["deployment"], one["state"], *counts, left, words.plain(one["destination"]))
    Console(highlight=False, markup=False).print(table)


@app.command()
def show(
    job_id: int = ID,
    watch: bool = typer.Option(False, "--watch", help="Follow it to its end; Ctrl-C leaves it running."),
    json: bool = JSON,
) -> None:
    """Show how far a job is, how fast it goes, what it costs, and what keeps it.

    Example: halve job show 3 --watch
    """
    from orchestrator.clock import SystemClock
    from orchestrator.jobs import asking, words

    ledger = _ledger()
    if watch:
        asking.look(ledger, job_id, SystemClock().now())
        _wait(ledger, job_id)
    now = SystemClock().now()
    one = asking.values(*asking.look(ledger, job_id, now), now)
    if json:
        _print_json(one)
        return
    print(f"job {one['id']} of {one['deployment']} is {one['state']}" + (f": {one['reason']}" if one["reason"] else ""))
    counts = ", ".join(f"{one[key]} {key}" for key in ("done", "failed", "leased", "waiting"))
    print(f"  {one['items']} images: {counts}")
    if one["state"] == "running" and one["items_per_second"]:
        print(f"  {one['items_per_second']:.1f} images/s, {words.duration(one['eta_seconds'])} left")
    print(f"  {words.costs(one)}")
    if one["deadline_at"]:
        print(f"  {words.due(one)}")
    print(f"  from {words.plain(one['source'])}\n  to   {words.plain(one['destination'])}")


@app.command()
def pause(job_id: int = ID) -> None:
    """Send no more images of a job; those under way still count.

    Example: halve job pause 3
    """
    from orchestrator.clock import SystemClock
    from orchestrator.jobs import asking

    _say(asking.pause(_ledger(), job_id, SystemClock().now()))


@app.command()
def resume(
    job_id: int = ID,
    budget: str = typer.Option(None, "--budget", metavar="AMOUNT", help="Let it cost so much in all."),
) -> None:
    """Go on with a paused job.

    Example: halve job resume 3 --budget 40
    """
    from orchestrator.clock import SystemClock
    from orchestrator.jobs import asking

    _say(asking.resume(_ledger(), job_id, SystemClock().now(), budget))


@app.command()
def cancel(job_id: int = ID) -> None:
    """End a job where it is; results that are there stay.

    Example: halve job cancel 3
    """
    from orchestrator.clock import SystemClock
    from orchestrator.jobs import asking

    _say(asking.cancel(_ledger(), job_id, SystemClock().now()))


@app.command()
def results(
    job_id: int = ID,
    errors: bool = typer.Option(False, "--errors", help="Print the errors instead."),
) -> None:
    """Print the results of a job so far, one line of JSON per image, in the order of the images.

    Example: halve job results 3 > so-far.jsonl
    """
    import os
    import sys

    from orchestrator.clock import SystemClock
    from orchestrator.jobs import asking

    try:
        for line in asking.result_lines(_ledger(), job_id, SystemClock().now(), errors=errors):
            sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    except BrokenPipeError:  # `| head` has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _moment(ledger: "Ledger", deployment: str | None, text: str, now: datetime) -> datetime:
    """A duration from now, or a time in the schedule's zone of the deployment."""
    from orchestrator import spec
    from orchestrator.errors import Refused
    from orchestrator.holding import moment
    from orchestrator.jobs.submission import chosen
    from orchestrator.spec import units

    with contextlib.suppress(ValueError):
        return now + units.duration(text)
    row = chosen(ledger, deployment)
    zone = spec.parse(row.spec, row.source).schedule_for(now).zone
    try:
        return moment(text, now.astimezone(zone))
    except Refused:
        raise Refused(f'--deadline {text}: want 6h, HH:MM, or "YYYY-MM-DD HH:MM"') from None


def _wait(ledger: "Ledger", job_id: int) -> bool:
    """Show its progress until it has ended. True when every image was read."""
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    from orchestrator.clock import SystemClock
    from orchestrator.jobs import asking, words
    from orchestrator.ledger.jobs import OPEN, State

    clock = SystemClock()
    columns = (
        TextColumn("job {task.fields[id]}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, overflow="fold")),  # may need lines
    )
    try:
        with Progress(*columns, console=Console(stderr=True), expand=True) as bar:
            task = bar.add_task("", total=None, id=job_id)
            while True:
                job, progress = asking.look(ledger, job_id, clock.now())
                says = words.going(asking.values(job, progress, clock.now()))
                bar.update(task, total=job.total, completed=job.done + job.failed, description=says)
                if job.state not in OPEN:
                    break
                clock.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        print(f"halve: job {job_id} goes on; `halve job show {job_id}` shows how far it is", file=sys.stderr)
        raise SystemExit(130) from None
    print(f"job {job_id} is {job.state}: {job.done} read, {job.failed} failed", file=sys.stderr)
    return job.state is State.DONE and not job.failed


def _ledger() -> "Ledger":
    from orchestrator.home import home
    from orchestrator.ledger.store import open_ledger

    return open_ledger(home())


def _say(job: "Job") -> None:
    print(f"job {job.id} is {job.state}, {job.left} of {job.total} images left")


def _print_json(value: Mapping[str, Any] | list[dict[str, Any]]) -> None:
    import sys
    from json import dumps

    sys.stdout.buffer.write(dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
    sys.stdout.buffer.flush()
