"""Numbers that people type for what a ledger counts."""

import typer

from orchestrator.numbers import MOST_NUMBER


def countable(number: int | None) -> int | None:
    """The same. Raises BadParameter for one that no ledger reaches; the help need not name that bound."""
    if number is not None and not 1 <= number <= MOST_NUMBER:
        raise typer.BadParameter(f"{number}: want a number from 1 on that a ledger can reach")
    return number
