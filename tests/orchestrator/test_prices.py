"""Offers, their price history and profiles in a real ledger."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from orchestrator import prices, seeds
from orchestrator.errors import Refused
from orchestrator.ledger import offers, quotes
from orchestrator.ledger import tables as t
from orchestrator.ledger.store import Ledger, open_ledger
from policies.snapshot import Offer, Purchase

NOW = datetime(2026, 10, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
RENTED = Offer(
    id="aws/us-1a/g4dn.xlarge/spot",
    provider="aws",
    zone="us-1a",
    instance_type="g4dn.xlarge",
    gpu="T4",
    purchase=Purchase.SPOT,
    price_per_hour_micros=200_000,
    currency="USD",
)
OWNED = Offer(
    id="local", provider="local", zone="", instance_type="", gpu="RTX 3060", purchase=Purchase.OWNED,
    price_per_hour_micros=1_800_000, currency="CNY",
)  # fmt: skip


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(tmp_path)
    yield opened
    opened.close()


def recorded(ledger: Ledger, offer: Offer, at: datetime) -> bool:
    with ledger.write() as tx:
        return offers.record(tx, [offer], "test", at)


def history(ledger: Ledger) -> list[tuple[int | None, datetime]]:
    with ledger.read() as tx:
        return [(price.price_per_hour_micros, price.effective_at) for price in offers.history(tx)]


def test_a_price_is_written_once_until_it_moves(ledger: Ledger) -> None:
    assert recorded(ledger, RENTED, NOW)
    assert not recorded(ledger, RENTED, NOW + timedelta(minutes=1))
    dearer = replace(RENTED, price_per_hour_micros=250_000)
    assert recorded(ledger, dearer, LATER)
    assert history(ledger) == [(200_000, NOW), (250_000, LATER)]
    with ledger.read() as tx:
        assert offers.known(tx) == (dearer,)
        assert offers.known(tx, at=NOW) == (RENTED,)
        before = offers.price_at(tx, RENTED.id, LATER - timedelta(microseconds=1))
        assert before and before.price_per_hour_micros == 200_000
        assert offers.price_at(tx, RENTED.id, NOW - timedelta(microseconds=1)) is None


def test_a_currency_is_part_of_the_price(ledger: Ledger) -> None:
    recorded(ledger, RENTED, NOW)
    assert recorded(ledger, replace(RENTED, currency="CNY"), LATER)


def test_a_rented_offer_keeps_its_last_good_price(ledger: Ledger) -> None:
    recorded(ledger, RENTED, NOW)
    assert not recorded(ledger, replace(RENTED, price_per_hour_micros=None, currency=""), LATER)
    with ledger.read() as tx:
        assert offers.get(tx, RENTED.id) == RENTED


def test_an_owner_may_take_the_price_back(ledger: Ledger) -> None:
    recorded(ledger, OWNED, NOW)
    silent = replace(OWNED, price_per_hour_micros=None, currency="")
    assert recorded(ledger, silent, LATER)
    assert not recorded(ledger, silent, LATER)
    assert history(ledger) == [(1_800_000, NOW), (None, LATER)]
    with ledger.read() as tx:
        assert offers.get(tx, "local") == silent


def test_an_owned_offer_that_never_had_a_price_has_no_history(ledger: Ledger) -> None:
    assert not recorded(ledger, replace(OWNED, price_per_hour_micros=None, currency=""), NOW)
    assert history(ledger) == []


def test_a_pool_remembers_refusals_and_losses_through_new_listings(ledger: Ledger) -> None:
    recorded(ledger, RENTED, NOW)
    with ledger.write() as tx:
        offers.refused(tx, RENTED.id, "no capacity", NOW)
        offers.refused(tx, RENTED.id, "no capacity", LATER)
        offers.lost(tx, RENTED.id, NOW)
    recorded(ledger, replace(RENTED, capacity=3), LATER)
    with ledger.read() as tx:
        (found,) = offers.known(tx)
    assert found == replace(RENTED, refusals=2, refused_at=LATER, lost_at=NOW, capacity=3)
    with ledger.write() as tx:
        offers.accepted(tx, RENTED.id)
    with ledger.read() as tx:
        assert offers.get(tx, RENTED.id) == replace(RENTED, lost_at=NOW, capacity=3)


def test_the_published_table(ledger: Ledger) -> None:
    prices.seed(ledger, NOW)
    with ledger.read() as tx:
        assert offers.known(tx) == (), "nothing can be launched from a published list"
        listed = {offer.gpu: offer for offer in offers.known(tx, [offers.MARKET])}
        speeds = {profile.gpu: profile for profile in offers.profiles(tx, seeds.MODEL)}
        memory = {row.gpu: row.memory_bytes for row in tx.execute(sa.select(t.profiles))}
    assert {gpu: offer.price_per_hour_micros for gpu, offer in listed.items()} == {
        "A100": 12_000_000,
        "V100": 8_500_000,
        "RTX 3090": 4_200_000,
        "RTX 3060": 1_800_000,
        "GTX 1060": 900_000,
        "i7-10700K": None,
    }
    assert {gpu: profile.p95_ms for gpu, profile in speeds.items()} == {
        "RTX 3090": 200,
        "RTX 3060": 400,
        "GTX 1060": 900,
        "i7-10700K": 3100,
    }
    assert speeds["RTX 3060"].images_per_second == 2.5
    assert memory["RTX 3090"] == 5_100_000_000 and memory["i7-10700K"] is None


def test_the_published_table_speaks_for_the_months_before_it_was_written_down(ledger: Ledger) -> None:
    written_at = datetime(2026, 10, 5, tzinfo=UTC)
    prices.seed(ledger, written_at)
    with ledger.read() as tx:
        found = quotes.history(tx)
        before = quotes.in_force(tx, datetime(2020, 1, 1, tzinfo=UTC))
    assert found and {one.recorded_at for one in found} == {written_at}, "its age is that of the ledger's copy"
    assert {one.offer_id for one in before} == {one.offer_id for one in found}


def test_seeding_again_leaves_a_changed_price_alone(ledger: Ledger) -> None:
    prices.seed(ledger, NOW)
    once = history(ledger)
    prices.seed(ledger, LATER)
    assert history(ledger) == once
    with ledger.read() as tx:
        listed = next(o for o in offers.known(tx, [offers.MARKET]) if o.gpu == "RTX 3060")
    recorded(ledger, replace(listed, price_per_hour_micros=1_900_000), LATER)
    prices.seed(ledger, LATER)
    with ledger.read() as tx:
        assert offers.get(tx, listed.id).price_per_hour_micros == 1_900_000
        assert offers.get(tx, listed.id, NOW).price_per_hour_micros == 1_800_000
        assert len(offers.profiles(tx, seeds.MODEL)) == 4


def test_a_bench_row_is_added_and_the_newest_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALVE_HOME", str(tmp_path))
    for speed in (2.0, 3.0):
        prices.record_bench(
            model="ppocr", gpu="CPU", precision="fp32", batch=1, images_per_second=speed, p95_ms=400.0, threads=2
        )
    with closing(open_ledger(tmp_path)) as ledger, ledger.read() as tx:
        (profile,) = offers.profiles(tx, "ppocr")
        assert tx.execute(sa.select(sa.func.count()).select_from(t.profiles)).scalar() == 2
        assert tx.execute(sa.select(t.profiles.c.note)).scalars().all() == ["2 threads", "2 threads"]
    assert (profile.images_per_second, profile.source) == (3.0, "bench")


def test_a_bench_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HALVE_HOME", str(tmp_path / "file"))
    with pytest.raises(Refused, match="HALVE_HOME"):
        prices.record_bench(model="m", gpu="g", precision="fp32", batch=1, images_per_second=1.0, p95_ms=None)


@pytest.mark.parametrize(("text", "micros"), [("4.20", 4_200_000), ("12.00", 12_000_000), ("0.000001", 1)])
def test_micros(text: str, micros: int) -> None:
    assert prices.micros(text) == micros


def test_micros_never_rounds() -> None:
    with pytest.raises(ValueError, match="six decimals"):
        prices.micros("0.0000001")
