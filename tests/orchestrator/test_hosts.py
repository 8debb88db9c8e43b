"""The hosts of a spec: how they are reached, and what an hour of them costs."""

import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier

import pytest

from orchestrator import control, hosts, planning, spec
from orchestrator.deployment import electricity, wishes
from orchestrator.draw import UNKNOWN, Draw
from orchestrator.errors import Refused
from orchestrator.files import write_json
from orchestrator.ledger.store import open_ledger
from orchestrator.providers.ssh import care, wheel
from orchestrator.providers.ssh.host import Files, Host, installation, known, recall, remember
from policies.snapshot import Offer, Purchase
from tests.orchestrator.tiny import end_all

HEAD = "{name: ocr, model: ppocr, provider: ssh, currency: CNY, ssh: {hosts: [%s]}}"


DECLARED = "power: {watts: 170, price_per_kwh: 0.60}"
APART = "power: {watts: 170, idle_watts: 40, price_per_kwh: 0.60}"
MEASURED = "power: {price_per_kwh: 0.60}, price_per_hour: 0.90"


def offers(host: str, gpu: str | None = None, draw: Draw = UNKNOWN) -> Offer | None:
    (one,) = hosts.offered(spec.parse(HEAD % host))
    return one.offer(gpu, draw)


@pytest.mark.parametrize(
    ("said", "draw", "micros"),
    [
        ("price_per_hour: 0.90", UNKNOWN, 900_000),
        ("price_per_hour: 0.90, amortisation_per_hour: 0.30", UNKNOWN, 1_200_000),
        (DECLARED, UNKNOWN, 102_000),  # 170 W x 0.60 / kWh
        (f"{DECLARED}, amortisation_per_hour: 0.30", Draw(limit_watts=300.0, mean_watts=90.0), 402_000),
        (APART, UNKNOWN, 102_000),  # nobody has looked yet how busy it is
        (APART, Draw(busy_share=0.25), 43_500),  # 40 W, and 130 W more for a quarter of the time
        (MEASURED, Draw(limit_watts=120.0), 972_000),  # until its meters have spoken, the most that its GPU may draw
        (MEASURED, Draw(limit_watts=120.0, mean_watts=60.0, idle_watts=40.0, busy_watts=110.0), 936_000),
        (MEASURED, UNKNOWN, None),  # nobody knows its watts
        ("user: me", UNKNOWN, None),  # unknown, never 0
    ],
)
def test_an_hour_costs_rent_amortisation_and_electricity(said: str, draw: Draw, micros: int | None) -> None:
    offer = offers(f"{{address: box1, gpu: T4, {said}}}", None, draw)
    assert offer is not None
    assert offer.price_per_hour_micros == micros
    assert offer.currency == ("CNY" if micros is not None else "")
    assert (offer.id, offer.zone, offer.provider) == ("ssh/box1/ocr", "box1", "ssh")
    assert (offer.purchase, offer.capacity) == (Purchase.OWNED, 1)


def test_a_gpu_that_the_host_is_to_name_is_offered_once_it_has() -> None:
    assert offers("{address: box1}") is None
    named = offers("{address: box1, port: 2222}", "Quadro P400")
    assert named is not None
    assert (named.gpu, named.zone) == ("Quadro P400", "box1:2222")
    own = offers("{address: box1, gpu: T4}", "Quadro P400")
    assert own is not None
    assert own.gpu == "T4"


def test_one_more_hour_costs_its_electricity_where_the_rest_is_paid_anyway() -> None:
    power = "power: {watts: 100, price_per_kwh: 0.50}, price_per_hour: 0.90"
    stops = f"{{address: stops, start: a, stop: b, {power}}}"
    wanted = spec.parse(HEAD % f"{{address: on, {power}}}, {stops}, {{address: rent, price_per_hour: 1}}")
    assert electricity(wanted) == {"ssh/on/ocr": 50_000}
    policy = wishes(wanted, datetime(2026, 11, 20, tzinfo=UTC), None, None, electricity(wanted))
    assert policy.marginal_micros == {"ssh/on/ocr": 50_000}


@pytest.mark.parametrize(
    ("said", "draw", "micros"),
    [
        (DECLARED, UNKNOWN, 102_000),
        (APART, UNKNOWN, 78_000),  # it is on anyway: 130 W more while it works
        (MEASURED, Draw(limit_watts=120.0), 72_000),
        (MEASURED, Draw(limit_watts=120.0, mean_watts=60.0, busy_watts=100.0), 60_000),
        (MEASURED, Draw(limit_watts=120.0, mean_watts=60.0, busy_watts=100.0, idle_watts=30.0), 42_000),
        (MEASURED, UNKNOWN, None),
    ],
)
def test_one_more_hour_of_work_costs_what_its_meters_say_beyond_idling(
    tmp_path: Path, said: str, draw: Draw, micros: int | None
) -> None:
    wanted = spec.parse(HEAD % f"{{address: box1, gpu: T4, {said}}}")
    files = Files.of(tmp_path, "box1")
    files.folder.mkdir(parents=True)
    write_json(files.seen, {"hello": {"watts": draw.limit_watts}, "draw": asdict(draw)})
    assert electricity(wanted, tmp_path) == ({} if micros is None else {"ssh/box1/ocr": micros})


def test_a_machine_never_draws_more_idle_than_busy() -> None:
    with pytest.raises(Refused, match="idle_watts: want no more than watts"):
        spec.parse(HEAD % "{address: a, power: {watts: 40, idle_watts: 41, price_per_kwh: 1}}")


def test_commands_are_words_for_no_shell() -> None:
    (written,) = hosts.offered(spec.parse(HEAD % "{address: a, start: [on, 'a b'], stop: 'off \"c d\"', key: ~/k}"))
    assert (written.host.start, written.host.stop) == (("on", "a b"), ("off", "c d"))
    assert written.host.key == str(Path("~/k").expanduser())
    with pytest.raises(Refused, match="want a command"):
        spec.parse(HEAD % "{address: a, start: []}")
    with pytest.raises(Refused, match="No closing quotation"):
        spec.parse(HEAD % "{address: a, start: 'on \"'}")


def test_a_spec_whose_hosts_nobody_has_confirmed_is_refused_before_anything_starts(tmp_path: Path) -> None:
    pytest.importorskip("asyncssh", reason="needs asyncssh: pip install 'halve[ssh]'")
    with pytest.raises(Refused, match=r"^ssh.hosts: nobody has confirmed the key of box1; .*halve hosts trust box1$"):
        control.check(spec.parse(HEAD % "{address: box1}"), tmp_path)


def test_a_plan_over_hosts_that_do_not_answer_is_refused_with_the_reason(tmp_path: Path) -> None:
    pytest.importorskip("asyncssh", reason="needs asyncssh: pip install 'halve[ssh]'")
    ledger = open_ledger(tmp_path)
    try:
        with pytest.raises(Refused, match="ssh cannot be asked now: nobody has confirmed the key of box1"):
            planning.plan(spec.parse(HEAD % "{address: box1}"), tmp_path, ledger, datetime.now(UTC))
    finally:
        ledger.close()
        end_all(tmp_path)


@pytest.mark.parametrize(
    ("name", "address", "port"),
    [
        ("box1", "box1", 22),
        ("box1:2222", "box1", 2222),
        ("10.0.0.1:2222", "10.0.0.1", 2222),
        ("[::1]:2222", "::1", 2222),
        ("::1", "::1", 22),
        ("[::1]", "::1", 22),
    ],
)
def test_names_are_addresses(name: str, address: str, port: int) -> None:
    assert care.parsed(name) == (address, port)
    assert care.parsed(Host(address=address, port=port).name) == (address, port)


@pytest.mark.parametrize("name", ["", "box 1", "box:0", "box:99999", "box:x", "[::1"])
def test_what_is_no_host_is_refused(name: str) -> None:
    with pytest.raises(Refused, match="is no host"):
        care.parsed(name)


def test_hosts_are_remembered_as_they_were_said_last(tmp_path: Path) -> None:
    first, second = Host(address="b", user="me"), Host(address="b", user="you", stop=("off",))
    for one in (first, second, Host(address="a", port=2222)):
        remember(tmp_path, one)
    assert recall(tmp_path, "b") == second
    assert [one.name for one in known(tmp_path)] == ["a:2222", "b"]
    assert installation(tmp_path) == installation(tmp_path)
    assert first.digest() != second.digest()
    Files.of(tmp_path, "b").host.write_text('{"address": "b", "of": "a later version"}')
    assert recall(tmp_path, "b") is None
    assert [one.name for one in known(tmp_path)] == ["a:2222"]


def test_the_wheel_is_the_same_however_often_it_is_packed(tmp_path: Path) -> None:
    one, other = wheel.packed(tmp_path / "one"), wheel.packed(tmp_path / "other")
    assert one.parent.name == other.parent.name == wheel.digest()
    assert one.read_bytes() == other.read_bytes()
    with zipfile.ZipFile(one) as archive:
        names = archive.namelist()
    assert {"orchestrator/providers/ssh/agent.py", "inference/__main__.py", "policies/snapshot.py"} <= {*names}
    assert not [name for name in names if "__pycache__" in name]


def test_links_of_several_hosts_pack_it_at_the_same_time(tmp_path: Path) -> None:
    together = Barrier(4)

    def pack(_: int) -> Path:
        together.wait(60)
        return wheel.packed(tmp_path)

    with ThreadPoolExecutor(4) as links:
        (packed,) = set(links.map(pack, range(4)))
    assert list(packed.parent.iterdir()) == [packed]


def test_a_wheel_is_one_that_pip_takes(tmp_path: Path) -> None:
    target = tmp_path / "there"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(target)]
    subprocess.run([*command, str(wheel.packed(tmp_path))], check=True, capture_output=True, timeout=120)
    said = subprocess.run(
        [sys.executable, "-S", "-c", "import orchestrator; print(orchestrator.__file__, orchestrator.__version__)"],
        cwd=target,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(target)},
    ).stdout
    assert said.startswith(str(target))
