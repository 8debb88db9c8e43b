"""How money and hours are written for people. What is not known is the word unknown, never 0."""

import os
import sys
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from orchestrator.reports.words import Words

UNKNOWN = "unknown"
PIPED_WIDTH = 100


def console() -> "Console":
    """The terminal at its own width; what is piped is PIPED_WIDTH columns wide, unless COLUMNS says otherwise."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=PIPED_WIDTH)


def table(*columns: str, title: str) -> "Table":
    """A table of figures: the first column is words, the others are numbers."""
    from rich import box
    from rich.table import Table

    found = Table(
        *columns,
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )
    for column in found.columns[1:]:
        column.justify = "right"
    return found


def money(micros: int | None, places: int = 2) -> str:
    """Micro-units with thousands separators, to `places` decimals: 1234567890 is '1,234.57'."""
    return UNKNOWN if micros is None else f"{Decimal(micros).scaleb(-6):,.{places}f}"


def amount(micros: int, currency: str, say: "Words", places: int = 2) -> str:
    """Money with its currency, as people of that language write it: '1,234.57 CNY' is '¥1,234.57' in Chinese."""
    figure = money(micros, places)
    return f"{sign(currency, say)}{figure}" if sign(currency, say) else f"{figure} {currency}"


def sign(currency: str, say: "Words") -> str:
    """The sign of a currency; empty where readers of that language are used to its code."""
    return "¥" if currency == "CNY" and say.language == "zh" else ""


def exact(micros: int | None) -> str:
    """Micro-units as a plain decimal with all six digits, for machines; empty when unknown."""
    return "" if micros is None else f"{Decimal(micros).scaleb(-6):f}"


def hours(value: Fraction) -> str:
    """Hours to a hundredth."""
    return f"{float(value):,.2f}"


def count(value: int | None) -> str:
    """An integer with thousands separators."""
    return UNKNOWN if value is None else f"{value:,}"


def percent(part: int, whole: int) -> str:
    """A share in whole percent."""
    return f"{round(Fraction(100 * part, whole))}%" if whole else UNKNOWN


def age(passed: timedelta, say: "Words") -> str:
    """How long ago: in minutes, hours from two on, days from two on."""
    for unit, words in ((timedelta(days=1), "{count} days"), (timedelta(hours=1), "{count} h")):
        if passed >= 2 * unit:
            return say(words, count=passed // unit)
    return say("{count} min", count=max(0, passed // timedelta(minutes=1)))
