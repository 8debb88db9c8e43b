"""What a door writes about spoilt requests does not fill a disk."""

import logging
from pathlib import Path

from orchestrator.door import Door, Replica, ServingSet
from orchestrator.door.sparing import LINES_PER_MINUTE, Sparing
from tests.orchestrator.door_asked import calling
from tests.orchestrator.door_upstream import upstream


def test_a_minute_has_so_many_lines_and_what_was_left_out_is_counted() -> None:
    now = 600.0
    sparing = Sparing(lambda: now)

    def said(words: str) -> str | None:
        record = logging.LogRecord("halve.door", logging.WARNING, "", 0, "%s", (words,), None)
        return record.getMessage() if sparing.filter(record) else None

    assert [said("spoilt") for _ in range(LINES_PER_MINUTE + 7)] == ["spoilt"] * LINES_PER_MINUTE + [None] * 7
    now += 60.0
    assert (said("one"), said("two")) == ("one (7 lines before it were left out)", "two")
    now += 60.0
    assert said("three") == "three"


def test_hundreds_of_spoilt_requests_are_a_few_lines(tmp_path: Path) -> None:
    door = Door(tmp_path, "ocr")
    url = door.ensure("127.0.0.1:0").url
    try:
        with upstream("a") as a, calling(url) as client:
            door.publish(ServingSet(deployment="ocr", open=True, replicas=(Replica(id="a", url=a.url),)))
            for _ in range(300):
                assert client.post("/v1/ocr?status=500").status_code == 500
    finally:
        door.stop()
        door.close()
    lines = (tmp_path / "doors/ocr.log").read_text().splitlines()
    assert sum("POST /v1/ocr 500" in line for line in lines) in range(10, 3 * LINES_PER_MINUTE)
