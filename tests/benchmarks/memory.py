"""What a replica holds: its memory over thousands of requests, and the bytes that one more waiting request costs.

    python -m tests.benchmarks.memory [--requests N]

One request in READ_EVERY is a small blank page, as a form, as JSON with a drawing or as a packed v2 tensor; the others
are refused on every way there is. So ten thousand take two minutes on two cores, and what leaks per request does not
care how much text was on it. Resident memory is that of the whole process.
"""

import argparse
import base64
import concurrent.futures
import gzip
import json
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import httpx
import numpy as np
import psutil

from tests.inference.replica import Replica, replica

REQUESTS = 10_000
READ_EVERY = 40
WARM = 0.2  # share of the requests after which memory is first looked at: pools and arenas have grown by then
MOST_GROWTH = 0.05  # of the resident memory, from there to the end
WAITING = 48
FILE_BYTES = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    options, _ = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder, replica(Path(folder), "--workers", "2") as running:
        running.until("ready")
        before, after, seconds = flat(running, options.requests)
        print(f"{options.requests:,} requests in {seconds:.0f} s: resident {before / 2**20:.1f} MiB after the first")
        print(f"{WARM:.0%}, {after / 2**20:.1f} MiB at the end: {after / before - 1:+.1%} (at most {MOST_GROWTH:+.0%})")
        assert after <= before * (1 + MOST_GROWTH), "memory grows with the requests"
    with tempfile.TemporaryDirectory() as folder, replica(Path(folder), "--workers", "1") as running:
        running.until("ready")
        each, held = waiting(running)
        print(f"{WAITING} waiting requests of {FILE_BYTES / 2**20:.1f} MiB: {each / 2**20:.2f} MiB resident each,")
        print(f"{held / 2**20:.2f} MiB by the replica's own count (halve_held_bytes)")


def flat(running: Replica, requests: int) -> tuple[int, int, float]:
    """Resident bytes after the warm-up and at the end, and the seconds it took."""
    process = psutil.Process(running.process.pid)
    read, refused = _sorts()
    url = str(running.announced["url"])
    local = threading.local()

    def ask(number: int) -> None:
        if not hasattr(local, "client"):
            local.client = httpx.Client(base_url=url, timeout=60)
        turn, rest = divmod(number, READ_EVERY)
        ask_for = refused[number % len(refused)] if rest else read[turn % len(read)]
        status = ask_for(local.client).status_code
        assert status in (400, 413, 415) if rest else status == 200, status

    started = time.perf_counter()
    warm = int(requests * WARM)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        list(threads.map(ask, range(warm)))
        before = process.memory_info().rss
        list(threads.map(ask, range(requests - warm)))
    return before, process.memory_info().rss, time.perf_counter() - started


def waiting(running: Replica) -> tuple[float, float]:
    """Resident bytes that one waiting request adds, and those that the replica says it holds for it."""
    process = psutil.Process(running.process.pid)
    page = _page(noise=True)
    client = running.client
    for _ in range(3):
        client.post("/v1/ocr", content=page)
    before = process.memory_info().rss
    limits = httpx.Limits(max_connections=WAITING)
    with (
        httpx.Client(timeout=300, limits=limits) as together,
        concurrent.futures.ThreadPoolExecutor(WAITING) as threads,
    ):
        url = f"{running.announced['url']}/v1/ocr"
        asked = [threads.submit(together.post, url, content=page) for _ in range(WAITING)]
        highest, count, each_resident = 0.0, 0, 0.0
        while not all(each.done() for each in asked):
            held = next(
                float(line.split()[1])
                for line in client.get("/metrics").text.splitlines()
                if line.startswith("halve_held_bytes ")
            )
            if held > highest and held % len(page) == 0:  # all of them had come whole
                highest, count = held, round(held / len(page))
                each_resident = (process.memory_info().rss - before) / max(1, count)
            time.sleep(0.02)
        assert {each.result().status_code for each in asked} == {200}
    assert count >= WAITING // 2, "too few waited at once to say anything"
    return each_resident, highest / count


Ask = Callable[[httpx.Client], httpx.Response]


def _sorts() -> tuple[list[Ask], list[Ask]]:
    """Requests that are read, and requests that are refused."""
    page = _page()
    text = base64.b64encode(page).decode()
    size = {"binary_data_size": len(page) + 4}
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": size}
    head = json.dumps({"inputs": [tensor]}).encode()
    packed = gzip.compress(head + struct.pack("<I", len(page)) + page)
    headers = {"content-encoding": "gzip", "Inference-Header-Content-Length": str(len(head))}
    read: list[Ask] = [
        lambda client: client.post("/v1/ocr", files={"file": ("a.png", page)}),
        lambda client: client.post("/v1/ocr", json={"image": text, "visualize": True}),
        lambda client: client.post("/v2/models/ppocr/infer", content=packed, headers=headers),
    ]
    refused: list[Ask] = [
        lambda client: client.post("/v1/ocr", content=b"no image"),
        lambda client: client.post("/v1/ocr", content=page[: len(page) // 2]),
        lambda client: client.post("/v1/ocr", json={"image": "?"}),
        lambda client: client.post("/v2/models/ppocr/infer", content=packed[:-3], headers=headers),
        lambda client: client.post("/v2/models/ppocr/infer", content=b"{}"),
        lambda client: client.post("/v1/ocr", files={"wrong": page}),
        lambda client: client.post("/v1/ocr", content=b""),
        lambda client: client.post("/v1/ocr", content=packed, headers={"content-encoding": "gzip"}),
        lambda client: client.post("/v1/ocr", content=b"[" * 1000, headers={"content-type": "application/json"}),
    ]
    return read, refused


def _page(*, noise: bool = False) -> bytes:
    """A blank page as small as a page may be for the networks; with noise behind its end, one of FILE_BYTES."""
    page: bytes = cv2.imencode(".png", np.full((96, 96, 3), 255, np.uint8))[1].tobytes()
    return page + np.random.default_rng(1).bytes(FILE_BYTES - len(page)) if noise else page


if __name__ == "__main__":
    main()
