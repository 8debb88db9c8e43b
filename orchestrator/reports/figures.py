"""How money and hours are written for people. What is not known is the word unknown, never 0."""

from decimal import Decimal
from fractions import Fraction

UNKNOWN = "unknown"


def money(micros: int | None, places: int = 2) -> str:
    """Micro-units with thousands separators, to `places` decimals: 1234567890 is '1,234.57'."""
    return UNKNOWN if micros is None else f"{Decimal(micros).scaleb(-6):,.{places}f}"


def exact(micros: int | None) -> str:
    """Micro-units as a plain decimal with all six digits, for machines; empty when unknown."""
    return "" if micros is None else f"{Decimal(micros).scaleb(-6):f}"


def hours(value: Fraction | None) -> str:
    """Hours to a tenth, or to the minute below ten."""
    if value is None:
        return UNKNOWN
    return f"{float(value):,.1f}" if value >= 10 else f"{float(value):.2f}"


def count(value: int | None) -> str:
    """An integer with thousands separators."""
    return UNKNOWN if value is None else f"{value:,}"
