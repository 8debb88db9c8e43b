"""Price lists in and out, and providers that are asked for their prices."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from orchestrator import pricelists, prices
from orchestrator.billing import Terms
from orchestrator.cli import app
from orchestrator.errors import Refused
from orchestrator.ledger import offers, quotes
from orchestrator.ledger.store import Ledger, open_ledger
from orchestrator.providers import Listed, Priced, Request, Unreachable
from policies.snapshot import Offer, Purchase
from tests.orchestrator.report_ledger import utc

NOW = utc("2026-11-01")
LIST = """\
gpu,price_per_hour,currency,source,since,purchase,provider
RTX 3060,1.80,CNY,rental site,2026-09-01,,autodl
RTX 3060,1.95,CNY,rental site,2026-10-15T08:00:00+08:00,,autodl
RTX 3060,0.80,CNY,rental site,2026-09-01,spot,autodl
RTX 3090,3.90,CNY,my contract,2026-10-01,on_demand,
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(tmp_path)
    prices.seed(opened, utc("2026-08-01"))
    yield opened
    opened.close()


def take(ledger: Ledger, text: str) -> int:
    listed, _ = pricelists.read(text, "list.csv", NOW)
    return pricelists.import_list(ledger, listed, NOW)


def in_force(ledger: Ledger, at: str) -> dict[str, int | None]:
    with ledger.read() as tx:
        return {one.offer_id: one.price_per_hour_micros for one in quotes.in_force(tx, utc(at))}


def test_each_price_holds_from_its_date(ledger: Ledger) -> None:
    assert take(ledger, LIST) == 4
    assert in_force(ledger, "2026-09-30")["autodl/RTX 3060"] == 1_800_000
    assert in_force(ledger, "2026-10-14 23:59")["autodl/RTX 3060"] == 1_800_000
    assert in_force(ledger, "2026-10-15")["autodl/RTX 3060"] == 1_950_000
    assert in_force(ledger, "2026-10-15")["autodl/RTX 3060/spot"] == 800_000
    assert "autodl/RTX 3060" not in in_force(ledger, "2026-08-31")


def test_a_list_without_a_provider_speaks_for_the_published_table(ledger: Ledger) -> None:
    take(ledger, LIST)
    assert in_force(ledger, "2026-09-30")["market/RTX 3090"] == 4_200_000
    assert in_force(ledger, "2026-10-01")["market/RTX 3090"] == 3_900_000


def test_the_same_list_again_is_no_news_and_another_price_is(ledger: Ledger) -> None:
    take(ledger, LIST)
    assert take(ledger, LIST) == 0
    assert take(ledger, LIST.replace("0.80", "0.85")) == 1
    with ledger.read() as tx:
        told = [one.price_per_hour_micros for one in quotes.history(tx, "autodl") if one.purchase is Purchase.SPOT]
    assert told == [800_000, 850_000], "nothing is overwritten, the last word counts"
    assert in_force(ledger, "2026-10-01")["autodl/RTX 3060/spot"] == 850_000


def test_what_is_exported_can_be_imported(ledger: Ledger, tmp_path: Path) -> None:
    take(ledger, LIST + "T4,,,rental site,2026-10-20,,autodl\nT4,2.5,CNY,rental site,2026-10-10,,autodl\n")
    with ledger.read() as tx:
        text = pricelists.to_csv(quotes.history(tx))
    other = open_ledger(tmp_path / "other")
    take(other, text)
    with other.read() as tx:
        assert pricelists.to_csv(quotes.history(tx)) == text
    assert in_force(other, "2026-10-15")["autodl/T4"] == 2_500_000
    assert in_force(other, "2026-10-21")["autodl/T4"] is None, "unknown from then on, never 0"
    other.close()


HEAD = "gpu,price_per_hour,currency,source,since\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gpu,price\nT4,1\n", "line 1: no column price_per_hour, currency, source, since; unknown: price"),
        (HEAD + "T4,0,CNY,x,2026-10-01\n", "line 2: price_per_hour 0: want more than 0"),
        (HEAD + "T4,-1,CNY,x,2026-10-01\n", "line 2: price_per_hour -1"),
        (HEAD + "T4,nan,CNY,x,2026-10-01\n", "line 2: price_per_hour nan"),
        (HEAD + "T4,one,CNY,x,2026-10-01\n", "line 2: price_per_hour one: want a number"),
        (HEAD + "T4,1.0000001,CNY,x,2026-10-01\n", "line 2: 1.0000001: more than six decimals"),
        (HEAD + "T4,1,RMB,x,2026-10-01\n", "line 2: "),
        (HEAD + "T4,1,CNY,x,yesterday\n", "line 2: since yesterday"),
        (HEAD + "T4,1,CNY,x,2026-10-01T08:00\n", "line 2: since 2026-10-01T08:00: want the zone too"),
        (HEAD + "T4,1,CNY,x,2027-10-01\n", "line 2: since 2027-10-01: that is still to come"),
        (HEAD + "T4,1,CNY,x,0001-01-01\n", "line 2: since 0001-01-01: want a moment from 1970 on"),
        (HEAD + "T4,1,CNY,x,0001-01-01T00:00:00+14:00\n", "line 2: since 0001-01-01T00:00:00+14:00: want a moment"),
        (HEAD + "T4,1e99,CNY,x,2026-10-01\n", "line 2: price_per_hour 1e99: want more than 0 and less than 1,000,000"),
        (HEAD + "T4,1,YUAN,x,2026-10-01\n", "line 2: currency YUAN: not an ISO-4217 currency, did you mean CNY?"),
        (HEAD + "T4,1,8,CNY,x,2026-10-01\n", "line 2: 6 cells, and 5 columns in the heading"),
        (HEAD + "T4\0,1,CNY,x,2026-10-01\n", "line 2: gpu: a character that cannot be printed"),
        (HEAD + f"T4,1,CNY,{'x' * 200_000},2026-10-01\n", "line 2: field larger than field limit"),
        (HEAD, "no price in it"),
        (HEAD + ",1,CNY,,2026-10-01\n", "line 2: gpu, source is empty"),
        (HEAD + "T4,1,CNY,x,2026-10-01\nT4,2,CNY,x,2026-10-01\n", "market/T4 has two prices since 2026-10-01 00:00"),
    ],
)
def test_a_faulty_list_is_refused_with_its_line(ledger: Ledger, text: str, words: str) -> None:
    before = in_force(ledger, "2026-11-01")
    with pytest.raises(Refused) as refused:
        take(ledger, text)
    assert words in str(refused.value) and str(refused.value).startswith("list.csv: ")
    assert in_force(ledger, "2026-11-01") == before


def test_every_fault_is_told_at_once(ledger: Ledger) -> None:
    with pytest.raises(Refused) as refused:
        take(ledger, HEAD + "T4,0,CNY,x,2026-10-01\nT4,1,CNY,x,2026-10-02\nT4,x,CNY,x,2026-10-03\n")
    assert "line 2: " in str(refused.value) and "line 4: " in str(refused.value)


def test_what_specs_say_is_left_out(ledger: Ledger) -> None:
    text = "provider," + HEAD + "local,T4,1,CNY,x,2026-10-01\nautodl,T4,1,CNY,x,2026-10-01\n"
    listed, left_out = pricelists.read("\ufeff" + text, "list.csv", NOW)
    assert ([one.offer_id for one in listed], left_out) == (["autodl/T4"], 1)


# --- providers --------------------------------------------------------------------------------------------------------


TERMS = Terms()


@dataclass
class Shop:
    """A provider that only quotes; `down`: it does not answer."""

    listed: Sequence[Offer]
    told: Sequence[Priced] | None = None
    down: bool = False
    name: str = "shop"
    listing_deadline_seconds: float = 60.0
    terms: Terms = TERMS

    def offers(self) -> Sequence[Offer]:
        if self.down:
            raise Unreachable("the price list did not answer")
        return self.listed

    def prices(self, since: object) -> Sequence[Priced] | None:
        return self.told

    def instances(self) -> Sequence[Listed]:
        return ()

    def launch(self, request: Request) -> str:
        raise NotImplementedError

    def terminate(self, provider_id: str) -> None:
        raise NotImplementedError


OFFER = Offer(
    id="shop/T4", provider="shop", zone="", instance_type="", gpu="T4", purchase=Purchase.ON_DEMAND,
    price_per_hour_micros=526_000, currency="USD",
)  # fmt: skip


def test_a_refresh_that_fails_keeps_the_last_good_price(ledger: Ledger) -> None:
    shop = Shop([OFFER])
    (found,) = pricelists.refresh(ledger, {"shop": shop}, utc("2026-10-01"))
    assert (found.offers, found.moved, found.error) == (1, 1, None)
    shop.down = True
    later = [pricelists.refresh(ledger, {"shop": shop}, utc("2026-10-01") + timedelta(days=day)) for day in range(1, 4)]
    assert [one.error for (one,) in later] == ["the price list did not answer"] * 3
    with ledger.read() as tx:
        quote = next(one for one in quotes.in_force(tx, utc("2026-10-04")) if one.provider == "shop")
    assert (quote.price_per_hour_micros, quote.source, quote.recorded_at) == (526_000, "shop", utc("2026-10-01"))


def test_one_that_fails_does_not_keep_the_others_from_answering(ledger: Ledger) -> None:
    dearer = replace(OFFER, id="b/T4", provider="b")
    found = pricelists.refresh(ledger, {"shop": Shop([OFFER], down=True), "b": Shop([dearer], name="b")}, NOW)
    assert [bool(one.error) for one in found] == [True, False]
    assert "b/T4" in in_force(ledger, "2026-11-01")


def test_a_history_is_taken_in_whole(ledger: Ledger) -> None:
    told = [
        Priced(offer_id="shop/T4", price_per_hour_micros=price, currency="USD", effective_at=utc(f"2026-10-0{day}"))
        for day, price in enumerate((500_000, 510_000, 505_000), 1)
    ]
    pricelists.refresh(ledger, {"shop": Shop([OFFER], told)}, utc("2026-10-05"))
    assert in_force(ledger, "2026-10-02")["shop/T4"] == 510_000
    (again,) = pricelists.refresh(ledger, {"shop": Shop([OFFER], told)}, utc("2026-10-05"))
    assert again.moved == 0


# --- the command ------------------------------------------------------------------------------------------------------


def halve(home: Path, *words: str) -> Result:
    env = {"HALVE_HOME": str(home), "COLUMNS": "80", "HALVE_DATABASE_URL": None}
    return CliRunner().invoke(app, ["prices", *words], env=env)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file or directory; name a CSV file"),
        ("folder", "Is a directory; name a CSV file"),
        (LIST.encode("utf-16"), "not UTF-8 text (at byte 1); save it as CSV in UTF-8"),
    ],
    ids=["none", "folder", "utf-16"],
)
def test_a_list_that_cannot_be_read_is_refused_in_a_line(tmp_path: Path, content: object, words: str) -> None:
    file = tmp_path / "list.csv"
    if content == "folder":
        file.mkdir()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    refused = halve(tmp_path, "import", str(file)).exception
    assert isinstance(refused, Refused) and str(refused).startswith(f"{file}: {words}")


def test_a_mark_and_windows_lines_are_no_faults(ledger: Ledger) -> None:
    assert take(ledger, "\ufeff" + LIST.replace("\n", "\r\n")) == 4


def test_a_gpu_of_which_no_price_is_known_is_said_to_be_so(tmp_path: Path) -> None:
    said = halve(tmp_path, "history", "--gpu", "RTX 9999").stdout
    assert said == "no price of RTX 9999 is known; there are prices of: A100, GTX 1060, RTX 3060, RTX 3090, V100\n"
    assert halve(tmp_path, "history", "--gpu", "RTX 9999", "--json").stdout == "[]\n"


def test_import_show_history_export(tmp_path: Path) -> None:
    file = tmp_path / "rentals.csv"
    file.write_text(LIST, encoding="utf-8")
    done = halve(tmp_path, "import", str(file))
    assert done.exit_code == 0 and "4 prices read, 4 were news" in done.stdout
    page = halve(tmp_path).stdout
    assert max(map(len, page.splitlines())) <= 80
    assert "rental" in page and "seed" in page and "age" in page and "undated" in page
    found = json.loads(halve(tmp_path, "--json").stdout)
    (spot,) = [one for one in found if one["purchase"] == "spot"]
    assert (spot["price_per_hour_micros"], spot["source"], spot["since"]) == (
        800_000, "rental site", "2026-09-01T00:00:00Z",
    )  # fmt: skip
    assert spot["age_seconds"] < 600
    undated = [one for one in found if one["since"] is None]
    assert undated and all(one["age_seconds"] is None for one in undated), "nobody knows how old that list is"
    rows = [line for line in page.splitlines() if "undated" in line]
    assert rows and all("unknown" in row and " min" not in row for row in rows)
    told = json.loads(halve(tmp_path, "history", "--gpu", "nvidia rtx 3060", "--json").stdout)
    dated = [
        one["price_per_hour_micros"] for one in told if (one["provider"], one["purchase"]) == ("autodl", "on_demand")
    ]
    assert dated == [1_800_000, 1_950_000]
    out = tmp_path / "out.csv"
    assert halve(tmp_path, "export", str(out)).exit_code == 0
    assert out.read_text().startswith("provider,gpu,purchase")


def test_refusals(tmp_path: Path) -> None:
    refused = halve(tmp_path, "import", str(tmp_path / "none.csv")).exception
    assert isinstance(refused, Refused) and "none.csv" in str(refused)
    refused = halve(tmp_path, "refresh").exception
    assert isinstance(refused, Refused) and "no deployment is up" in str(refused)


SPEC = "name: ocr\nmodel: ppocr\nprovider: local\ncurrency: CNY\nlocal: {price_per_hour: 1.80, gpu: RTX 3060}\n"


def test_refresh_asks_the_providers_of_what_is_up(tmp_path: Path) -> None:
    from orchestrator.ledger import deployments

    ledger = open_ledger(tmp_path)
    with ledger.write() as tx:
        deployments.put_up(tx, "ocr", SPEC, "ocr.yaml", NOW)
    ledger.close()
    done = halve(tmp_path, "refresh")
    assert done.exit_code == 0 and "local: 1 offers, 1 moved" in done.stdout, done.output
    with open_ledger(tmp_path).read() as tx:
        assert [one.price_per_hour_micros for one in offers.known(tx, ["local"])] == [1_800_000]


def test_a_provider_is_named_as_the_source_of_its_prices(ledger: Ledger) -> None:
    """The daemon writes down that a provider told them; a reader is told which."""
    offer = Offer(id="o", provider="shop", zone="z", instance_type="i", gpu="T4", purchase=Purchase.SPOT)
    priced = replace(offer, price_per_hour_micros=1_000_000, currency="CNY")
    with ledger.write() as tx:
        offers.record(tx, [priced], "provider", utc("2026-10-01"))
    with ledger.read() as tx:
        assert [one.source for one in quotes.history(tx, "shop")] == ["shop"]
