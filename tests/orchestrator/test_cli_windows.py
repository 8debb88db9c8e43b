"""halve windows, as others call it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app

NIGHTS = """
name: nights
model: ppocr
provider: local
schedule: {timezone: Europe/Berlin, windows: ["Fri,Sat 22:00-02:30"], prewarm: 1h}
"""


def windows(tmp_path: Path, text: str, *arguments: str) -> tuple[int, str, str]:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    result = CliRunner().invoke(app, ["windows", str(path), *arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def test_json_is_utc_merged_clipped_and_without_prewarm(tmp_path: Path) -> None:
    code, out, err = windows(tmp_path, NIGHTS, "--from", "2026-03-28", "--to", "2026-03-29", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == [
        {"opens_at": "2026-03-27T23:00:00Z", "closes_at": "2026-03-28T01:30:00Z"},  # Friday's night, from midnight on
        {"opens_at": "2026-03-28T21:00:00Z", "closes_at": "2026-03-29T01:00:00Z"},  # 02:30 does not exist
    ]


def test_never_open_is_an_empty_list(tmp_path: Path) -> None:
    assert windows(tmp_path, NIGHTS, "--from", "2026-03-30", "--to", "2026-03-31", "--json")[:2] == (0, "[]\n")


def test_the_table_is_in_local_time(tmp_path: Path) -> None:
    code, out, _ = windows(tmp_path, NIGHTS, "--from", "2026-03-28", "--to", "2026-03-29")
    assert code == 0
    assert "Sat 2026-03-28 22:00 +0100" in out and "Sun 2026-03-29 03:00 +0200" in out
    assert "4.00" in out, "hours that really pass"


def test_what_goes_on_and_what_is_not_known_is_said(tmp_path: Path) -> None:
    arguments = ("--from", "2039-06-03", "--to", "2039-06-04")
    assert "it stays open beyond 2039-06-04" in windows(tmp_path, NIGHTS, *arguments)[1]
    china = NIGHTS.replace("prewarm: 1h", "holidays: CN")
    assert "note: holidays CN" in windows(tmp_path, china, *arguments)[1]
    _, out, err = windows(tmp_path, china, *arguments, "--json")
    assert json.loads(out) and "holidays CN" in err, "notes stay out of the JSON"


def test_without_dates_the_next_two_weeks(tmp_path: Path) -> None:
    code, out, _ = windows(tmp_path, "name: always\nmodel: ppocr\nprovider: local\n", "--json")
    (span,) = json.loads(out)
    assert code == 0
    assert span["opens_at"].endswith("T00:00:00Z")


@pytest.mark.parametrize(
    "dates",
    [
        ("--from", "2026-03-30", "--to", "2026-03-29"),
        ("--from", "30.03.2026"),
        ("--from", "2026-02-30"),
        ("--from", "2026-01-01", "--to", "2100-01-01"),
        ("--from", "0001-01-01", "--to", "0001-01-02"),
        ("--to", "9999-12-31"),
    ],
)
def test_senseless_dates_are_wrong_usage(tmp_path: Path, dates: tuple[str, ...]) -> None:
    assert windows(tmp_path, NIGHTS, *dates)[0] == 2


@pytest.mark.parametrize(("option", "said"), [("--from", "2026-12-40"), ("--to", "tomorrow"), ("--from", "")])
def test_what_is_no_date_is_told_how_one_is_written(tmp_path: Path, option: str, said: str) -> None:
    code, out, err = windows(tmp_path, NIGHTS, option, said)
    line = f"Error: Invalid value for {option}: {said}: want YYYY-MM-DD, such as 2026-10-01"
    assert (code, out, err.splitlines()[-1]) == (2, "", line)


def test_a_wrong_spec_is_refused_with_every_error_and_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(NIGHTS.replace("name", "nmae").replace("22:00", "22"))
    run = [sys.executable, "-c", "from orchestrator.cli import main; main()", "windows", str(path)]
    result = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    first, *errors = result.stderr.splitlines()
    assert first == f"halve: 2 errors in {path}"
    assert [error.removeprefix(f"{path}:")[:9] for error in errors] == ["2: nmae: ", "5: schedu"]
