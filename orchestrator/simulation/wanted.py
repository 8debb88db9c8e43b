"""What is wanted on a bad day, drawn from its chance: versions of a spec. Pure."""

import random
from dataclasses import dataclass, fields, replace

NAME = "ocr"
WINDOWS = (
    (),
    ("Mon-Sun 08:00-20:00",),
    ("Mon-Sun 07:30-12:00", "Mon-Sun 13:00-18:00"),
    ("Mon-Sun 22:00-06:00",),
    ("Mon-Sun 01:30-03:30", "Mon-Sun 09:00-24:00"),
)
BUDGETS = (
    "",
    "",
    "",
    "budget: {daily: 5}",
    "budget: {daily: 9, at: {60%: spot-only, 100%: stop}}",
    "budget: {monthly: 4}",
    "budget: {monthly: 7, daily: 5, at: {80%: warn, 100%: stop}}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What the versions of a spec differ in."""

    windows: tuple[str, ...]
    least: int
    more: int
    surge: int
    threads: int
    spot: str
    budget: str


def specs(chance: random.Random, name: str, zone: str, prices: tuple[float, float]) -> tuple[str, ...]:
    """Three versions: another size, other windows, another engine, spot or not, a budget or none.

    `prices` are those of an hour on demand and on spot, in which they do not differ.
    """
    versions = [_wanted(chance)]
    for _ in range(2):
        other = _wanted(chance)
        changed = {one.name: getattr(other, one.name) for one in fields(other) if chance.random() < 0.4}
        versions.append(replace(versions[-1], **changed))
    return tuple(_text(name, zone, prices, version) for version in versions)


def _wanted(chance: random.Random) -> _Wanted:
    return _Wanted(
        windows=chance.choice(WINDOWS),
        least=chance.choice((0, 1, 1, 2)),
        more=chance.choice((0, 1, 2)),
        surge=chance.choice((0, 1, 1)),
        threads=chance.randint(1, 4),
        spot=chance.choice(("", "spot: {}", "spot: {base_on_demand: 1}", "spot: {availability: 99.9%}")),
        budget=chance.choice(BUDGETS),
    )


def _text(name: str, zone: str, prices: tuple[float, float], wanted: _Wanted) -> str:
    windows = ", ".join(f'"{one}"' for one in wanted.windows)
    return f"""\
name: {name}
model: ppocr
provider: simulated
currency: USD
engine: {{threads: {wanted.threads}}}
simulated: {{gpu: T4, price_per_hour: {prices[0]}, spot_price_per_hour: {prices[1]}, zones: 3, images_per_second: 2}}
schedule: {{timezone: {zone}, {f"windows: [{windows}], " if windows else ""}prewarm: 2m}}
replicas: {{min: {wanted.least}, max: {max(1, wanted.least + wanted.more)}, surge: {wanted.surge}}}
{wanted.spot}
{wanted.budget}
"""
