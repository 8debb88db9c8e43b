"""The little languages inside a spec: money, durations, percentages, dates, weekly hours.

Every reader takes what YAML gave and returns a value, or raises ValueError saying what is wanted.
"""

import re
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from difflib import get_close_matches
from ipaddress import ip_address
from zoneinfo import ZoneInfo, available_timezones

from policies.windows import Extra, Window

MICROS = 1_000_000
_MOST_MONEY = 1_000_000_000  # of any currency: in micro-units still far from 64 bits
_LONGEST = timedelta(days=366)
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
_WANT_HOURS = 'want "Days HH:MM-HH:MM", such as "Mon-Fri 08:00-20:00" or "Sat,Sun 22:00-02:30"'
_WANT_EXTRA = 'want "YYYY-MM-DD HH:MM-HH:MM", such as "2026-10-10 09:00-18:00"'
_CURRENCIES_MEANT = {"RMB": "CNY", "YUAN": "CNY", "CNH": "CNY"}
_ZONES_MEANT = {"Asia/Beijing": "Asia/Shanghai", "Beijing": "Asia/Shanghai", "China": "Asia/Shanghai"}


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in integer micro-units of an ISO-4217 currency."""

    micros: int
    currency: str

    def __str__(self) -> str:
        amount = f"{Decimal(self.micros) / MICROS:f}"
        whole, _, cents = amount.partition(".")
        return f"{whole}.{cents.rstrip('0'):0<2} {self.currency}"


def money(value: object, currency: str) -> Money:
    """`600 CNY`, or a number in `currency`."""
    want = f"want an amount such as 600 (in {currency}) or 600 {currency}"
    if isinstance(value, Money):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(want)
    match = re.fullmatch(r"(-?[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]{1,2})?)\s*([A-Za-z]*)", str(value).strip())
    if not match:
        raise ValueError(want)
    amount, code = Decimal(match[1]), match[2] or currency
    if amount < 0:
        raise ValueError("money is never negative here")
    if amount > _MOST_MONEY:
        raise ValueError(f"more than {_MOST_MONEY:,} is surely a slip")
    micros = amount * MICROS
    if micros != micros.to_integral_value():
        raise ValueError("finer than a millionth of the currency")
    return Money(int(micros), currency_code(code))


def currency_code(value: object) -> str:
    """An ISO-4217 code by its form."""
    if isinstance(value, str) and (meant := _CURRENCIES_MEANT.get(value.upper())):
        raise ValueError(f"not an ISO-4217 currency, did you mean {meant}?")
    if not isinstance(value, str) or not re.fullmatch("[A-Z]{3}", value):
        raise ValueError("want an ISO-4217 currency of three capitals, such as CNY")
    return value


def duration(value: object) -> timedelta:
    """`800ms 90s 5m 2h 1d`; a bare number is refused, for nobody knows its unit."""
    if isinstance(value, timedelta):
        return value
    match = (
        re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*(ms|s|m|h|d)", value.strip()) if isinstance(value, str) else None
    )
    if not match:
        raise ValueError("want a duration with its unit, such as 800ms, 90s, 5m, 2h or 1d")
    length = timedelta(microseconds=int(Decimal(match[1]) * _SECONDS[match[2]] * MICROS))
    if length > _LONGEST:
        raise ValueError("longer than a year is surely a slip")
    return length


def percent(value: object) -> float:
    """`99.5%`, or 0.995 itself."""
    if isinstance(value, float) and 0 <= value <= 1:
        return value
    match = re.fullmatch(r"([0-9]{1,4}(?:\.[0-9]{1,6})?)\s*%", value.strip()) if isinstance(value, str) else None
    if not match:
        raise ValueError("want a percentage such as 80%")
    return float(Decimal(match[1]) / 100)


def day(value: object) -> date:
    """`2026-12-24`."""
    if isinstance(value, date):
        return value
    if isinstance(value, str) and re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", value.strip()):
        try:
            return date.fromisoformat(value.strip())
        except ValueError:
            raise ValueError("there is no such date") from None
    raise ValueError("want a date YYYY-MM-DD, such as 2026-12-24")


def zone(value: object) -> ZoneInfo:
    """An IANA time zone by its name."""
    if isinstance(value, ZoneInfo):
        return value
    known = available_timezones()
    if isinstance(value, str) and value in known:
        return ZoneInfo(value)
    close = get_close_matches(str(value), known, n=1, cutoff=0.7)
    meant = _ZONES_MEANT.get(str(value)) or next(iter(close), None)
    hint = f"did you mean {meant}?" if meant else "want an IANA name such as Asia/Shanghai or UTC"
    raise ValueError(f"unknown time zone, {hint}")


def weekly(value: object) -> Window:
    """`Mon-Fri 08:00-20:00`: days as ranges (which may wrap) or lists, then hours, past midnight when end <= start."""
    if isinstance(value, Window):
        return value
    words = value.split() if isinstance(value, str) else []
    if len(words) != 2:
        raise ValueError(_WANT_HOURS)
    start, end = _hours(words[1], _WANT_HOURS)
    return Window(days=_days(words[0]), start_minute=start, end_minute=end)


def extra(value: object) -> Extra:
    """`2026-10-10 09:00-18:00`."""
    if isinstance(value, Extra):
        return value
    words = value.split() if isinstance(value, str) else []
    if len(words) != 2:
        raise ValueError(_WANT_EXTRA)
    start, end = _hours(words[1], _WANT_EXTRA)
    return Extra(date=day(words[0]), start_minute=start, end_minute=end)


def address(value: object) -> str:
    """`127.0.0.1:7860`, `[::1]:7860`, `ocr.example:443`; port 0 takes a free one."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:\[\]/]+):([0-9]{1,5})", value) if isinstance(value, str) else None
    if not match or int(match[2]) > 65535:
        raise ValueError("want HOST:PORT, such as 127.0.0.1:7860")
    assert isinstance(value, str)
    return value


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.lower().split(","):
        first, dash, last = part.partition("-")
        if first not in _WEEKDAYS or (dash and last not in _WEEKDAYS):
            raise ValueError(f"{_WANT_HOURS}; days are Mon Tue Wed Thu Fri Sat Sun")
        start, end = _WEEKDAYS.index(first), _WEEKDAYS.index(last or first)
        days.update((start + ahead) % 7 for ahead in range((end - start) % 7 + 1))
    return frozenset(days)


def _hours(text: str, want: str) -> tuple[int, int]:
    match = re.fullmatch("([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})", text)
    if not match:
        raise ValueError(want)
    start, end = (int(match[i]) * 60 + int(match[i + 1]) for i in (1, 3))
    if int(match[2]) > 59 or int(match[4]) > 59 or start >= 24 * 60 or end > 24 * 60:
        raise ValueError(f"{text} is not a time of day: 00:00 to 23:59, and 24:00 as an end")
    return start, end
