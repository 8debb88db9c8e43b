"""How wide a terminal is."""

from shutil import get_terminal_size
from textwrap import fill
from typing import TextIO


def within(text: str, stream: TextIO, *, indent: int = 0) -> str:
    """Lines of text, broken between words where a terminal would break them anywhere; elsewhere they stay as they are.

    What is broken off is indented by so many columns.
    """
    if not stream.isatty():
        return text
    columns = get_terminal_size().columns
    broken = (fill(line, columns, subsequent_indent=" " * indent, break_on_hyphens=False) for line in text.splitlines())
    return "\n".join(broken)
