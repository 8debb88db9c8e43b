"""The spec: what a file means, and every way in which it can be wrong."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.errors import Refused
from orchestrator.spec import Money, Spec, SpecErrors, load, parse
from orchestrator.spec.model import PREWARM_MARGIN_SECONDS
from policies.snapshot import Purchase
from policies.windows import MakeUp, Override, bounds

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "infra" / "examples").glob("*.yaml"))
SMALLEST = "name: ocr\nmodel: ppocr\nprovider: local\n"
FULL = """
name: ocr
model: ppocr
engine: {backend: auto, precision: auto, workers: 2, threads: auto}
provider: [local, ssh, aws]
currency: CNY
rates: {USD: {rate: 7.10, as_of: 2026-11-01, source: "my bank"}}
local: {price_per_hour: 1.80, power: {watts: auto, price_per_kwh: 0.6}, amortisation_per_hour: 0.3, gpu: RTX 3060}
ssh:
  hosts:
    - {address: box1, user: halve, gpu: GTX 1060, price_per_hour: 0.90, start: rentctl start 17, stop: rentctl stop 17}
aws:
  {region: us-east-1, subnets: [subnet-1], instance_types: [g4dn.xlarge], image: auto, lease: 30m, queue: null}
schedule:
  timezone: Asia/Shanghai
  windows: ["Mon-Fri 08:00-20:00", {when: "Sat 10:00-16:00", min: 0, max: 1}]
  holidays: CN
  closed: ["2026-12-24"]
  open: ["2026-10-05 09:00-18:00"]
  prewarm: 5m
replicas: {min: 1, max: 4, surge: 1}
slo: {p95: 800ms}
selection: {gpus: [RTX 3060, T4, L4], unmeasured: exclude}
spot: {policy: hazard, availability: 99.5%, base_on_demand: 0, guard: false}
budget: {monthly: 600, daily: 5 USD, at: {80%: warn, 95%: spot-only, 100%: stop}}
baseline: {gpu: RTX 3090, purchase: on_demand, replicas: 1, always_on: true}
door: {listen: 127.0.0.1:7860, token: null, tls: null}
alerts: ["mailto://...", "feishu://..."]
"""


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def errors(text: str | bytes) -> list[str]:
    """`line: path: message` of everything wrong with a text."""
    with pytest.raises(SpecErrors) as caught:
        parse(text, "s")
    lines = str(caught.value).splitlines()
    return [line.removeprefix("s:") for line in lines if not line.endswith("errors in s")]


def with_lines(*lines: str) -> str:
    return SMALLEST + "\n".join(lines)


# what a spec means


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_load(path: Path) -> None:
    assert load(path).name


def test_there_are_examples() -> None:
    assert {path.stem for path in EXAMPLES} >= {"daytime-ocr", "monthly-budget", "spot-fleet", "two-hosts"}


def test_only_name_model_and_provider_are_required() -> None:
    spec = parse(SMALLEST)
    assert (spec.name, spec.model, spec.provider, spec.currency) == ("ocr", "ppocr", ("local",), "CNY")
    assert (spec.replicas.min, spec.replicas.max, spec.replicas.surge) == (1, 1, 1)
    assert spec.local.price_per_hour is None, "unknown, never 0"
    assert bounds(spec.schedule_for(at("2026-03-01T03:00")), at("2026-03-01T03:00")).reason == "always open"
    assert (spec.door.host, spec.door.port) == ("127.0.0.1", 7860)


def test_every_section() -> None:
    spec = parse(FULL)
    assert spec.provider == ("local", "ssh", "aws")
    assert spec.local.price_per_hour == Money(1_800_000, "CNY")
    assert spec.local.power is not None and spec.local.power.price_per_kwh == Money(600_000, "CNY")
    assert spec.ssh is not None and spec.ssh.hosts[0].stop == ("rentctl", "stop", "17")
    assert spec.aws is not None and spec.aws.lease == timedelta(minutes=30)
    assert spec.slo is not None and spec.slo.p95 == timedelta(milliseconds=800)
    assert spec.spot is not None and spec.spot.availability == 0.995
    assert spec.budget is not None and spec.budget.daily == Money(5_000_000, "USD")
    assert spec.budget.at == {0.8: "warn", 0.95: "spot-only", 1.0: "stop"}
    assert spec.baseline is not None and spec.baseline.purchase is Purchase.ON_DEMAND
    assert spec.engine.workers == 2


@pytest.mark.parametrize(
    ("written", "micros", "currency"),
    [
        ("1.80", 1_800_000, "CNY"),
        ('"600"', 600_000_000, "CNY"),
        ("0.25 USD", 250_000, "USD"),
        ("0.000001", 1, "CNY"),
        ("0", 0, "CNY"),
        ("4.2CNY", 4_200_000, "CNY"),
    ],
)
def test_money_is_exact(written: str, micros: int, currency: str) -> None:
    text = with_lines(
        "rates: {USD: {rate: 7.1, as_of: 2026-11-01, source: me}}", f"local: {{price_per_hour: {written}}}"
    )
    assert parse(text).local.price_per_hour == Money(micros, currency)


def test_a_number_is_in_the_specs_own_currency() -> None:
    assert parse(with_lines("currency: EUR", "local: {price_per_hour: 2}")).local.price_per_hour == Money(
        2_000_000, "EUR"
    )


def test_money_reads_like_money() -> None:
    assert [str(Money(micros, "CNY")) for micros in (1_800_000, 5, 600_000_000)] == [
        "1.80 CNY",
        "0.000005 CNY",
        "600.00 CNY",
    ]


def test_conversion_needs_a_dated_rate() -> None:
    spec = parse(FULL)
    assert spec.convert(Money(1_000_001, "USD")) == Money(7_100_007, "CNY")
    assert spec.convert(Money(3, "CNY")) == Money(3, "CNY")
    assert spec.convert(Money(3, "EUR")) is None


def test_scalars_are_those_of_yaml_1_2() -> None:
    spec = parse(with_lines("schedule: {timezone: Europe/Oslo, holidays: NO, closed: [2026-12-24]}"))
    assert spec.schedule is not None and spec.schedule.holidays == "NO", "Norway, not false"
    assert spec.schedule.closed == (date(2026, 12, 24),)


def test_max_follows_min_when_it_is_left_out() -> None:
    assert parse(with_lines("replicas: {min: 3}")).replicas.max == 3
    assert parse(with_lines("replicas: {min: 0}")).replicas.max == 1


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [("127.0.0.1:0", "127.0.0.1", 0), ('"[::1]:99"', "::1", 99), ("localhost:7860", "localhost", 7860)],
)
def test_loopback_needs_no_token(listen: str, host: str, port: int) -> None:
    door = parse(with_lines(f"door: {{listen: {listen}}}")).door
    assert (door.host, door.port) == (host, port)


def test_a_token_is_not_shown() -> None:
    door = "door: {listen: 0.0.0.0:443, token: a-very-secret-token, tls: {certificate: c.pem, key: k.pem}}"
    assert "secret" not in repr(parse(with_lines(door)))


# its hashes


def test_the_digest_is_of_the_meaning() -> None:
    other_words = FULL.replace("prewarm: 5m", "prewarm: 300s  # a comment").replace("1.80", "1.8 CNY")
    assert parse(other_words).digest() == parse(FULL).digest()
    assert parse(with_lines("engine: {backend: auto}")).digest() == parse(SMALLEST).digest()
    assert parse(FULL.replace("max: 4", "max: 5")).digest() != parse(FULL).digest()


@pytest.mark.parametrize(
    ("change", "outdates"),
    [
        (("model: ppocr", "model: other"), True),
        (("precision: auto", "precision: bf16"), True),
        (("max: 4", "max: 5"), False),
        (("08:00-20:00", "09:00-20:00"), False),
        (("monthly: 600", "monthly: 700"), False),
    ],
)
def test_only_model_and_engine_outdate_a_replica(change: tuple[str, str], outdates: bool) -> None:
    assert (parse(FULL.replace(*change)).replica_digest() != parse(FULL).replica_digest()) is outdates


# its opening hours


def test_the_schedule_has_the_calendar_of_the_years_around() -> None:
    schedule = parse(FULL).schedule_for(at("2026-10-01T00:00"))
    assert date(2026, 10, 1) in schedule.holidays and date(2027, 1, 1) in schedule.holidays
    assert MakeUp(date=date(2026, 10, 10), weekday=2) in schedule.make_up
    assert schedule.prewarm_seconds == 300
    saturday = schedule.windows[1]
    assert (saturday.min, saturday.max) == (0, 1)


@pytest.mark.parametrize(
    ("local", "is_open"),
    [
        ("2026-09-30 10:00", True),  # Wednesday
        ("2026-10-01 10:00", False),  # National Day
        ("2026-10-05 10:00", True),  # within the holidays, but an extra date
        ("2026-10-05 18:30", False),  # and only until six
        ("2026-10-07 10:00", False),  # moved day off
        ("2026-10-10 19:00", True),  # Saturday worked for Wednesday: Wednesday's hours, not Saturday's
        ("2026-10-17 19:00", False),  # an ordinary Saturday
        ("2026-02-14 19:00", True),  # worked for the Friday of the Spring Festival
        ("2026-02-17 10:00", False),  # Spring Festival
        ("2026-12-24 10:00", False),  # closed
    ],
)
def test_open_in_shanghai(local: str, is_open: bool) -> None:
    now = at(local) - timedelta(hours=8)
    assert bounds(parse(FULL).schedule_for(now), now).open is is_open


def test_prewarm_auto_is_the_measured_start() -> None:
    spec, now = parse(with_lines("schedule: {timezone: UTC, prewarm: auto}")), at("2026-03-01T00:00")
    assert spec.schedule_for(now, start_seconds=41.5).prewarm_seconds == 41.5 + PREWARM_MARGIN_SECONDS
    assert spec.schedule_for(now).prewarm_seconds > 0


def test_an_override_is_part_of_the_schedule() -> None:
    now = at("2026-10-01T02:00")
    held = parse(FULL).schedule_for(now, Override(state="open", until=now + timedelta(hours=1)))
    assert bounds(held, now).open


def test_without_windows_open_all_week_but_for_the_closed_dates() -> None:
    spec = parse(with_lines('schedule: {timezone: UTC, closed: ["2026-03-03"]}'))
    for day, is_open in ((2, True), (3, False), (4, True)):
        now = datetime(2026, 3, day, 23, 59, tzinfo=UTC)
        assert bounds(spec.schedule_for(now), now).open is is_open


def test_missing_calendar_data_is_known() -> None:
    assert parse(FULL).calendar_notes(2026, 2026) == ()
    assert "2039" in parse(FULL).calendar_notes(2039, 2039)[0]
    assert parse(SMALLEST).calendar_notes(2039, 2039) == ()


# what can be wrong


def test_all_errors_at_once_in_the_order_of_the_file() -> None:
    text = """\
nmae: ocr
model: ppocr
provider: locl
schedule:
  timezone: Asia/Shanghia
  windows: ["Mon-Fri 8-20", {when: "Sat 10:00-16:00", min: 3, max: 1}, "Sun 08:00-12:00"]
replicas: {min: 4, max: 2}
budget: {monthly: ten}
"""
    assert errors(text) == [
        "1: nmae: unknown key, did you mean name?",
        '3: provider: "locl": want one of local, ssh, aws, simulated, or a list of them; did you mean local?',
        '5: schedule.timezone: "Asia/Shanghia": unknown time zone, did you mean Asia/Shanghai?',
        '6: schedule.windows[0]: "Mon-Fri 8-20": want "Days HH:MM-HH:MM", such as "Mon-Fri 08:00-20:00" '
        'or "Sat,Sun 22:00-02:30"',
        "6: schedule.windows[1]: min 3 is more than max 1",
        "7: replicas: min 4 is more than max 2",
        '8: budget.monthly: "ten": want an amount such as 600 (in CNY) or 600 CNY',
    ]


def wrong_specs() -> dict[str, tuple[list[str], list[str]]]:
    """name -> (lines below the smallest spec, the errors as `line: path: message`)"""
    golden = Path(__file__).with_name("wrong_specs.txt").read_text("utf-8")
    cases = {}
    for block in golden.split("## ")[1:]:
        name, *lines = block.strip().splitlines()
        written = [line for line in lines if not line.startswith("-> ")]
        cases[name] = (written, [line.removeprefix("-> ") for line in lines if line.startswith("-> ")])
    assert len(cases) > 50
    return cases


WRONG = wrong_specs()


@pytest.mark.parametrize("name", WRONG)
def test_every_error_has_its_place_and_remedy(name: str) -> None:
    lines, expected = WRONG[name]
    assert errors(with_lines(*lines)) == expected


@pytest.mark.parametrize(
    ("lines", "unsure"),
    [
        (["replica: {max: 4}", "spot: {base_on_demand: 3}"], "base_on_demand"),  # replicas was meant, and is 4
        (["replicas: {min: 3, max: many}"], "more than"),
        (["budget: {monthly: ten}"], "monthly, daily or both"),
        (["door: {listen: 0.0.0.0:1, token: short, tls: {certificate: c, key: k}}"], "reached from"),
        (["rates: {USD: {rate: x}}", "local: {price_per_hour: 1 USD}"], "cannot be compared"),
    ],
)
def test_no_contradiction_is_claimed_with_what_is_itself_wrong(lines: list[str], unsure: str) -> None:
    found = errors(with_lines(*lines))
    assert found and not any(unsure in line for line in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", " empty: want at least name, model and provider"),
        ("# nothing\n", " empty: want at least name, model and provider"),
        ("- name: ocr\n", "1: want keys such as name: and model:, not a list"),
        ("ocr", "1: want keys such as name: and model:, not one value"),
        ("name: ocr\n\tmodel: x\n", "2: not YAML: found character '\\t' that cannot start any token"),
        ("name: [ocr\n", "2: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("name: a\n---\nname: b\n", "2: not YAML: but found another document"),
        (b"name: \xff\n", "1: not UTF-8 text (at byte 7)"),
        (
            "name: !!python/name:os.system x",
            "1: not YAML: could not determine a constructor for the tag 'tag:yaml.org,2002:python/name:os.system'",
        ),
        ("a: &a [*a]", " not a spec: nested too deeply, or far too long"),
        ("[" * 3000, " not a spec: nested too deeply"),
        ("x" * 300_000, " 300,000 bytes is no spec: at most 262,144"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_not_a_spec_at_all(text: str | bytes, expected: str) -> None:
    assert errors(text) == [expected]


def test_an_alias_that_doubles_and_doubles_is_cut_short() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert errors("\n".join(lines)) == [" not a spec: nested too deeply, or far too long"]


def test_the_three_required_keys_are_all_named() -> None:
    assert errors("currency: CNY") == [f" {key}: missing" for key in ("name", "model", "provider")]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="absent.yaml: no such file"):
        load(tmp_path / "absent.yaml")
    with pytest.raises(Refused, match="a folder; name the spec in it"):
        load(tmp_path)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALLEST.replace("\n", "\r\n").encode())
    assert load(path).name == "ocr"


def test_a_spec_cannot_be_changed() -> None:
    spec = parse(SMALLEST)
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "other"  # type: ignore[misc]
    assert isinstance(spec, Spec)
