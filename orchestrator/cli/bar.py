"""What somebody who waits at a terminal wants to see: how far it is, how fast it goes, how long it takes still."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def bar(what: str, total: float, unit: str) -> Iterator[Callable[[float], None]]:
    """A bar on standard error inside the block; yields what is to be told how much of `total` is done.

    `unit` is what is counted, in the plural.
    """
    with _progress(TextColumn("{task.fields[rate]}"), TimeRemainingColumn()) as progress:
        task = progress.add_task(what, total=total, rate="")

        def done(count: float) -> None:
            seconds = progress.tasks[task].elapsed or 0.0
            rate = f"{count / seconds:.3g} {unit}/s" if seconds and count else ""
            progress.update(task, completed=min(count, total), rate=rate)

        yield done


@contextmanager
def busy(what: str) -> Iterator[None]:
    """The same for work of which nobody can say how much it is: that it goes on, and since when."""
    with _progress(TimeElapsedColumn()) as progress:
        progress.add_task(what, total=None)
        yield


def _progress(*columns: TextColumn | TimeElapsedColumn | TimeRemainingColumn) -> Progress:
    console = Console(stderr=True)
    text = TextColumn("{task.description}", markup=False)
    return Progress(text, BarColumn(20), *columns, console=console, transient=True, disable=not console.is_terminal)
