"""The parts of a spec as types. Attributes keep the names of the YAML keys."""

import math
import shlex
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from orchestrator import calendars
from orchestrator.spec import units
from orchestrator.spec.units import Money
from policies.policy import HAZARD
from policies.snapshot import Purchase
from policies.windows import Extra, Window

DEFAULT_CURRENCY = "CNY"


def _amount(value: object, info: ValidationInfo) -> Money:
    return units.money(value, (info.context or {}).get("currency", DEFAULT_CURRENCY))


def _auto_duration(value: object) -> timedelta | Literal["auto"]:
    return "auto" if value == "auto" else units.duration(value)


def _auto_count(value: object) -> int | Literal["auto"]:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1024):
        return value
    raise ValueError("want auto or a whole number from 1 to 1024")


def _auto_watts(value: object) -> float | Literal["auto"]:
    if value == "auto":
        return "auto"
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 100_000:
        return float(value)
    raise ValueError("want auto or a number of watts")


def _argv(value: object) -> tuple[str, ...]:
    """A command and its arguments: no shell ever reads them."""
    words = shlex.split(value) if isinstance(value, str) else value
    if isinstance(words, list | tuple) and words and all(isinstance(word, str) and word for word in words):
        return tuple(words)
    raise ValueError("want a command: text, or a list of texts")


def _source(value: object) -> str:
    """`file:///folder` or `s3://bucket/prefix`, without a slash at its end."""
    scheme, _, place = value.partition("://") if isinstance(value, str) else ("", "", "")
    parts = place.rstrip("/").split("/")
    rooted = parts[0] == "" if scheme == "file" else scheme == "s3" and parts[0] != ""
    if not rooted or not any(parts) or "" in parts[1:] or {".", ".."} & set(parts) or set(place) & set("?#\0\n"):
        raise ValueError("want file:///folder or s3://bucket/prefix: where the images lie that requests may name")
    return f"{scheme}://{place.rstrip('/')}"


def _one_or_more(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _positive(value: object, info: ValidationInfo) -> Money:
    amount = _amount(value, info)
    if amount.micros == 0:
        raise ValueError("a budget of nothing is a deployment that never runs; use halve down instead")
    return amount


def _country(value: object) -> str:
    if isinstance(value, str) and calendars.is_known(value):
        return value
    meant = isinstance(value, str) and value.upper()
    hint = f", did you mean {meant}?" if meant and calendars.is_known(meant) else ""
    raise ValueError(f"no such calendar{hint or ': want a country such as CN, DE or US-CA (ISO 3166)'}")


def _latency(value: object) -> timedelta:
    latency = units.duration(value)
    if not timedelta(milliseconds=1) <= latency <= timedelta(minutes=10):
        raise ValueError("a latency to promise lies between 1ms and 10m")
    return latency


Amount = Annotated[Money, BeforeValidator(_amount)]
Currency = Annotated[str, BeforeValidator(units.currency_code)]
Day = Annotated[date, BeforeValidator(units.day)]
Duration = Annotated[timedelta, BeforeValidator(units.duration)]
Share = Annotated[float, BeforeValidator(units.percent)]
Count = Annotated[int, Field(strict=True, ge=0, le=10_000)]
Some = Annotated[int, Field(strict=True, ge=1, le=10_000)]
Text = Annotated[str, Field(min_length=1, max_length=1000)]
Command = Annotated[tuple[str, ...], BeforeValidator(_argv)]
Source = Annotated[str, BeforeValidator(_source)]
AutoCount = Annotated[int | Literal["auto"], BeforeValidator(_auto_count)]


class Section(BaseModel):
    """Frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False)


class Engine(Section):
    """How a replica reads images: part of what makes it outdated.

    `sources`: folders and buckets whose images whoever may call may name instead of sending, wherever a replica runs.
    """

    backend: Literal["auto", "onnxruntime", "openvino", "torch"] = "auto"
    precision: Literal["auto", "fp32", "fp16", "bf16", "int8"] = "auto"
    workers: AutoCount = "auto"
    threads: AutoCount = "auto"
    sources: tuple[Source, ...] = Field(default=(), max_length=100)


class Rate(Section):
    """What one unit of another currency is worth in the spec's, on whose word, since when."""

    rate: Decimal = Field(gt=0, le=1_000_000)
    as_of: Day
    source: Text


class Power(Section):
    """Electricity of a machine of one's own. watts auto: as its meters say, idle and busy apart; until they have
    spoken, the most that its GPU may draw. A number is what it draws while it works, `idle_watts` while it does not.
    """

    watts: Annotated[float | Literal["auto"], BeforeValidator(_auto_watts)] = "auto"
    idle_watts: float | None = Field(default=None, ge=0, le=100_000)
    price_per_kwh: Amount

    @model_validator(mode="after")
    def _idle_is_less(self) -> Self:
        if self.idle_watts is not None and self.watts != "auto" and self.idle_watts > self.watts:
            raise ValueError("idle_watts: want no more than watts, which it draws while it works")
        return self


class Local(Section):
    """What owning or renting this machine costs; without a price its cost is unknown, never 0."""

    price_per_hour: Amount | None = None
    power: Power | None = None
    amortisation_per_hour: Amount | None = None
    gpu: Text | None = None


class Host(Section):
    """A machine reached by ssh. With `stop`, billing ends when that has succeeded."""

    address: Text
    user: Text | None = None
    port: int = Field(default=22, strict=True, ge=1, le=65535)
    key: Text | None = None  # path of a private key
    gpu: Text = "auto"  # as NVML names it there
    python: Text = "python3"  # of 3.11 or newer; what it has of our packages is used from there
    price_per_hour: Amount | None = None
    power: Power | None = None
    amortisation_per_hour: Amount | None = None
    start: Command | None = None
    stop: Command | None = None
    command_timeout: Duration = timedelta(minutes=2)


class Ssh(Section):
    hosts: tuple[Host, ...] = Field(min_length=1)


class Aws(Section):
    """Where and what to rent. `lease`: a replica that has not heard from the daemon for so long ends itself."""

    region: Annotated[tuple[Text, ...], Field(min_length=1), BeforeValidator(_one_or_more)]
    subnets: tuple[Text, ...] = ()  # none: the default one of each zone
    instance_types: tuple[Text, ...] = Field(min_length=1)
    image: Text = "auto"
    bucket: Text | None = None
    lease: Duration = timedelta(minutes=30)
    queue: Text | None = None
    stack: Text = "halve"  # the CloudFormation stack that made the role and the security group
    disk: Some = 100  # GB of each machine
    address: Text = "auto"  # of this controller, as machines see it


class Simulated(Section):
    """A market that is not there, for trying things out."""

    gpu: Text = "RTX 3060"
    price_per_hour: Amount | None = None
    spot_price_per_hour: Amount | None = None
    boot: Duration = timedelta(seconds=60)
    zones: Some = 1
    preemptions_per_day: float = Field(default=0.0, ge=0, le=1440)  # of each zone, on average
    notice: Duration = timedelta(minutes=2)
    images_per_second: float = Field(default=2.5, gt=0, le=1_000_000)


class Opening(Section):
    """One line of the weekly hours, with replicas of its own if it says so."""

    when: Annotated[Window, BeforeValidator(units.weekly)]
    min: Count | None = None
    max: Some | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return value if isinstance(value, dict | Opening) else {"when": value}

    @property
    def window(self) -> Window:
        return replace(self.when, min=self.min, max=self.max)


class OpeningHours(Section):
    """`windows` None: open all week, but for holidays and closed dates."""

    timezone: Annotated[ZoneInfo, BeforeValidator(units.zone)]
    windows: tuple[Opening, ...] | None = None
    holidays: Annotated[str, BeforeValidator(_country)] | None = None
    closed: tuple[Day, ...] = ()
    open: tuple[Annotated[Extra, BeforeValidator(units.extra)], ...] = ()
    prewarm: Annotated[timedelta | Literal["auto"], BeforeValidator(_auto_duration)] = "auto"


class Replicas(Section):
    """How many while open. `surge`: how many more while outdated ones are replaced."""

    min: Count = 1
    max: Some = 1  # or min, where only min is given
    surge: Count = 1

    @model_validator(mode="before")
    @classmethod
    def _max_follows_min(cls, value: object) -> object:
        if isinstance(value, dict) and "max" not in value and isinstance(value.get("min"), int):
            return {**value, "max": max(1, value["min"])}
        return value


class Slo(Section):
    """The promise: 95 of 100 images are read within `p95`."""

    p95: Annotated[timedelta, BeforeValidator(_latency)]


class Selection(Section):
    """Which GPUs may be chosen (None: any), and what becomes of those never measured."""

    gpus: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    unmeasured: Literal["exclude", "try-one"] = "exclude"


class Spot(Section):
    """Serving on machines that may be taken back."""

    policy: Text = HAZARD
    availability: Share = 0.99
    base_on_demand: Count = 0
    guard: bool = False

    @field_validator("availability")
    @classmethod
    def _possible(cls, value: float) -> float:
        if not 0 < value < 1:
            raise ValueError("want a percentage above 0% and below 100%")
        return value


class Budget(Section):
    """Money per calendar month and day, and what happens at which share of it."""

    monthly: Annotated[Money, BeforeValidator(_positive)] | None = None
    daily: Annotated[Money, BeforeValidator(_positive)] | None = None
    at: dict[Share, Literal["warn", "spot-only", "minimum", "stop"]] = {0.8: "warn", 0.95: "spot-only", 1.0: "stop"}


class Baseline(Section):
    """What savings are measured against. Without a price, the price table's."""

    gpu: Text
    purchase: Purchase = Purchase.ON_DEMAND
    replicas: Some = 1
    always_on: bool = True
    price_per_hour: Amount | None = None


class Tls(Section):
    """Paths of PEM files."""

    certificate: Text
    key: Text


class RateLimit(Section):
    """How often all callers of a door together may have something recognised; a batch is not among them."""

    per_second: Annotated[float, Field(gt=0, le=1_000_000)]
    burst: Some | None = None  # requests at once; None: a second's

    @property
    def at_once(self) -> int:
        return self.burst or math.ceil(self.per_second)


class Door(Section):
    """The one stable address."""

    listen: Annotated[str, BeforeValidator(units.address)] = "127.0.0.1:7860"
    token: Annotated[str, Field(min_length=16, max_length=1000)] | None = Field(default=None, repr=False)
    tls: Tls | None = None
    rate_limit: RateLimit | None = None

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """0: a free one is taken."""
        return int(self.listen.rpartition(":")[2])


def _near(value: object) -> str:
    """An address that only this machine reaches."""
    listen = units.address(value)
    if not units.is_loopback(listen.rpartition(":")[0].strip("[]")):
        raise ValueError(
            "the dashboard speaks plain HTTP, so it listens on loopback alone: use 127.0.0.1:7870, "
            "and `ssh -L 7870:127.0.0.1:7870 HOST` from elsewhere"
        )
    return listen


class Dashboard(Section):
    """The pages that the daemon serves. One for all deployments: the first by name that is up and has this section."""

    listen: Annotated[str, BeforeValidator(_near)] = "127.0.0.1:7870"
    actions: bool = False  # whether it may override, drain and pause, or only show
