"""What `halve status` says of hosts: why one is away with the remedy, the power it draws, and what it has cost."""

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator import draw, hosts, spec
from orchestrator.clock import SystemClock
from orchestrator.deployment import electricity
from orchestrator.draw import Draw
from orchestrator.files import write_json
from orchestrator.ledger.store import open_ledger
from orchestrator.providers import Unreachable
from orchestrator.providers.ssh.host import Host, installation, remember
from orchestrator.providers.ssh.link import Link
from orchestrator.providers.ssh.provider import SshProvider
from orchestrator.providers.ssh.standing import NOBODY_ASKS, noted
from orchestrator.status import status
from tests.orchestrator.report_ledger import Rows
from tests.orchestrator.sshd import Server, reached, server, ssh
from tests.orchestrator.test_control import done, halve
from tests.orchestrator.tiny import until

pytest.importorskip("asyncssh", reason="needs asyncssh: pip install 'halve[ssh]'")
from orchestrator.providers.ssh import keys

MEASURED = Draw(idle_watts=40.0, busy_watts=140.0, mean_watts=100.0, busy_share=0.6, meters="NVML + RAPL")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    with server(tmp_path / "own") as one:
        yield one


def text(own: Server) -> str:
    return (
        "name: ocr\nmodel: ppocr\nprovider: ssh\ncurrency: CNY\nssh:\n  hosts:\n"
        f"    - {{address: 127.0.0.1, port: {own.port}, gpu: tiny, power: {{price_per_kwh: 0.60}}}}\n"
    )


def prices(provider: SshProvider) -> list[int | None]:
    with suppress(Unreachable):
        return [offer.price_per_hour_micros for offer in provider.offers()]
    return []


def why(home: Path, name: str) -> str:
    """As its link has noted it, once it has tried."""
    with closing(Link(home, name)) as link, suppress(Unreachable):  # one that is slow to answer is asked again
        link.ask("look", now=datetime.now(UTC).isoformat())
    return noted(home, name).why


def refused(own: Server, home: Path) -> Host:
    own.kill()
    return own.host()


def set_up_anew(own: Server, home: Path) -> Host:
    own.kill()
    own.new_host_key()
    own.start()
    return own.host()


def shut_out(own: Server, home: Path) -> Host:
    (own.folder / "authorized_keys").write_text("")
    return own.host()


def misspelt(own: Server, home: Path) -> Host:
    host = own.host(address="no-such-host.invalid", port=22)
    keys.trust(home, host, keys.offered(own.host()))
    remember(home, host)
    return host


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (refused, "refused: nothing listens on its port {port}; start sshd there, or correct the port in ssh.hosts"),
        (set_up_anew, "if it was set up anew: halve hosts trust {name}"),
        (shut_out, "it must let this user in by its key"),
        (misspelt, "nobody knows the address no-such-host.invalid; correct it in ssh.hosts"),
    ],
    ids=["refused", "changed key", "shut out", "unknown name"],
)
def test_a_host_that_is_away_says_why_and_the_remedy(
    home: Path, own: Server, happens: Callable[[Server, Path], Host], said: str
) -> None:
    reached(ssh(home, own.host())).close()
    Link(home, own.host().name).end()
    host = happens(own, home)
    wanted = said.format(port=host.port, name=host.name)
    until(lambda: wanted in why(home, host.name), why=f"it says {noted(home, host.name).why!r}")
    assert noted(home, host.name).state == "unreachable"


def test_without_a_daemon_nobody_asks(home: Path, own: Server) -> None:
    reached(ssh(home, own.host())).close()
    name = own.host().name
    until(lambda: noted(home, name).state == "ready")
    Link(home, name).end()
    found = noted(home, name)
    assert (found.state, found.why, found.gpu is None) == ("unreachable", NOBODY_ASKS, False)


def test_what_a_hosts_meters_say_is_its_price_and_its_marginal_cost(home: Path, own: Server) -> None:
    """The draw is where an agent there has kept it; what it costs goes all the way to the offer and to the policies."""
    there = own.far / "homes" / installation(home)
    there.mkdir(parents=True)
    write_json(draw.file_of(there), asdict(MEASURED))
    wanted = spec.parse(text(own))
    assert electricity(wanted, home) == {}  # nobody has said anything yet
    keys.trust(home, own.host(), keys.offered(own.host()))
    (offered,) = hosts.offered(wanted)
    one = own.host()
    provider = SshProvider(home, SystemClock(), [replace(offered, host=one)])
    reached(provider)
    until(lambda: prices(provider) == [60_000])  # 100 W x 0.60 / kWh
    assert electricity(wanted, home) == {f"ssh/{one.name}/ocr": 60_000}  # 140 W - 40 W, for it is on anyway
    said = " ".join(halve(home, "hosts").stdout.split())
    assert "power 40 W idle, 140 W busy (NVML + RAPL)" in said


TWO = """name: ocr
model: ppocr
provider: [ssh, local]
currency: CNY
rates: {USD: {rate: 7, as_of: 2026-11-01, source: my bank}}
ssh:
  hosts:
    - {address: box1, gpu: T4, power: {watts: 170, idle_watts: 40, price_per_kwh: 0.6}}
    - {address: box2, gpu: T4, power: {price_per_kwh: 0.6}}
"""


def test_each_host_has_its_own_cost_of_this_month(home: Path) -> None:
    now = datetime(2026, 11, 20, 12, tzinfo=UTC)
    ledger = open_ledger(home)
    rows = Rows(ledger)
    rows.deployment("ocr", TWO)
    for zone, hours, price, currency in (
        ("box1", 2, 600_000, "CNY"),
        ("box1", 1, 100_000, "USD"),
        ("box2", 4, None, ""),
    ):
        one = rows.machine(provider="ssh", purchase="owned", zone=zone)
        rows.charge(one, now - timedelta(hours=hours), now, price, currency)
    last_month = rows.machine(provider="local", purchase="owned", zone="this")
    rows.charge(last_month, datetime(2026, 10, 31, tzinfo=UTC), datetime(2026, 11, 1, 2, tzinfo=UTC), 1_000_000)
    found = status(home, ledger, now)["deployments"][0]["hosts"]
    ledger.close()
    costs = {one["name"]: (one["month_micros"], one["currency"]) for one in found}
    assert costs == {"this": (2_000_000, "CNY"), "box1": (1_900_000, "CNY"), "box2": (None, "CNY")}
    shown = done(halve(home, "status"))
    assert "  this machine is ready, this month 2.00 CNY\n" in shown
    assert "  box1 is unreachable, this month 1.90 CNY, power 40 W idle, 170 W busy (declared)\n" in shown
    assert "  box2 is unreachable, this month unknown, power unknown\n" in shown
    assert f"    {NOBODY_ASKS}\n" in shown
