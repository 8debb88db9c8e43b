"""`make demo`: the whole product on this machine, in a few minutes, at any hour of the day.

Everything goes through the command `halve`, as a user would type it, in a temporary HALVE_HOME that is removed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "tests" / "pages"
OPEN_MINUTES = 3
#: to write the spec and to start the daemon before the window opens
LEAD = timedelta(seconds=20)
COPIES = 6  # of every page, so that the batch is long enough to lose its engine
MONTH = "2026-10"

SPEC = """\
name: demo
model: ppocr
provider: local
currency: CNY
local: {{price_per_hour: 1.80, gpu: RTX 3060}}     # what this box would cost, rented
schedule:
  timezone: UTC
  windows: ["Mon-Sun {opens}-{closes}"]
  prewarm: 30s
baseline: {{gpu: RTX 3090, purchase: on_demand, replicas: 1, always_on: true}}
door: {{listen: "127.0.0.1:0"}}
"""


def main() -> int:
    """Run the demo; 0 when everything was as it should be."""
    with temporary_home() as home:
        opens_at = next_minute(datetime.now(UTC) + LEAD)
        closes_at = opens_at + timedelta(minutes=OPEN_MINUTES)
        spec = home / "demo.yaml"
        spec.write_text(SPEC.format(opens=f"{opens_at:%H:%M}", closes=f"{closes_at:%H:%M}"), encoding="utf-8")
        chapter(f"An OCR service that is open from {opens_at:%H:%M} to {closes_at:%H:%M} UTC")
        print(spec.read_text(encoding="utf-8"))
        halve("windows", spec, "--from", f"{opens_at:%Y-%m-%d}", "--to", f"{opens_at:%Y-%m-%d}")
        halve("plan", spec)
        url = json.loads(halve("up", spec, "--json"))["url"]
        chapter("Before the window: 503, and when it opens")
        ask_closed(url)
        wait_until(opens_at, "the window opens")
        chapter("Open: an invoice over HTTP")
        read_invoice(url)
        chapter("A batch, and its engine is killed in the middle")
        run_batch(home, url)
        halve("status")
        wait_until(closes_at, "the window closes")
        chapter("After the window: drained, stopped, and 503 with the next opening")
        wait_for(lambda: not engines(home), 120, "the engine has stopped")
        ask_closed(url)
        halve("why", "demo", "--last", "3")
        chapter("What it cost")
        halve("report")
        halve("ledger", "check")
        halve("down", "demo")
        chapter(f"A month before it is bought: working days, on spot machines, simulated for {MONTH}")
        ledger = home / "month.db"
        halve("simulate", ROOT / "infra" / "examples" / "daytime-spot.yaml", "--month", MONTH, "--ledger", ledger)
        halve("report", "--month", MONTH, "--ledger", ledger)
        halve("gpus", "--model", "cv_resnet18_ocr-detection", "--latency", "0.3")
        left = ours(home)
    must(not left, f"nothing is left running, but there is: {left}")
    print("\ndemo: everything was as it should be; nothing is left running")
    return 0


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A HALVE_HOME of its own, removed at the end with everything that runs in it, however the demo ends."""
    home = Path(tempfile.mkdtemp(prefix="halve-demo-"))
    os.environ["HALVE_HOME"] = str(home)
    os.environ.pop("HALVE_DATABASE_URL", None)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    try:
        yield home
    except KeyboardInterrupt:
        print("\ndemo: interrupted; taking everything down", file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        for process in ours(home):
            try:
                psutil.Process(process).kill()
            except psutil.NoSuchProcess:
                continue
        shutil.rmtree(home, ignore_errors=True)


def ours(home: Path) -> list[int]:
    """Pids of the processes that this demo's home has started: daemon, door, engine."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "environ", "status"]):
        named = any(str(home) in word for word in process.info["cmdline"] or ())
        daemon = (process.info["environ"] or {}).get("HALVE_HOME") == str(home)
        if (named or daemon) and process.pid != os.getpid() and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def engines(home: Path) -> list[psutil.Process]:
    """The engines that run in this home."""
    words = str(home / "replicas")
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if any(words in word for word in process.info["cmdline"] or ())
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def halve(*arguments: object) -> str:
    """Type a command, show it and what it prints, and return its standard output."""
    words = [str(argument) for argument in arguments]
    print("\n$ halve " + " ".join(words), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *words], stdout=subprocess.PIPE, text=True, check=False
    )
    print(done.stdout, end="", flush=True)
    must(done.returncode == 0, f"halve {words[0]} exits 0, not {done.returncode}")
    return done.stdout


def ask_closed(url: str) -> None:
    answer = httpx.post(f"{url}/v1/ocr", files={"file": (PAGES / "invoice.png").read_bytes()}, trust_env=False)
    print(f"$ curl -F file=@invoice.png {url}/v1/ocr")
    print(f"{answer.status_code}  Retry-After: {answer.headers.get('Retry-After')}  {answer.text.strip()}")
    must(answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0, "a closed door answers 503, Retry-After")
    must(answer.json()["opens_at"] is not None, "it says when it opens")


def read_invoice(url: str) -> None:
    print(f"$ curl -F file=@invoice.png {url}/v1/ocr")
    with (PAGES / "invoice.png").open("rb") as file:
        answer = httpx.post(f"{url}/v1/ocr", files={"file": ("invoice.png", file)}, timeout=60, trust_env=False)
    must(answer.status_code == 200, f"the invoice is read, not {answer.status_code} {answer.text}")
    result: dict[str, Any] = answer.json()
    print(result["recognized_text"])
    print(json.dumps(result["structured_data"], ensure_ascii=False))
    expected = json.loads((PAGES / "truth.json").read_text(encoding="utf-8"))["invoice.png"]["lines"]
    missing = {alike(line) for line in expected} - {alike(line) for line in result["recognized_text"].splitlines()}
    must(not missing, f"every line is read exactly; missing: {missing}")


def alike(line: str) -> str:
    """Full and half width are one to the recogniser."""
    return unicodedata.normalize("NFKC", line)


def run_batch(home: Path, url: str) -> None:
    source, results = home / "inbox", home / "results"
    source.mkdir()
    for page in sorted(PAGES.glob("*.png")):
        for copy in range(COPIES):
            shutil.copy(page, source / f"{page.stem}-{copy}.png")
    items = len(list(source.iterdir()))
    halve("job", "submit", source, "--out", results)
    wait_for(lambda: shown()["done"] >= items // 4, 120, "a quarter of the batch is read")
    found = engines(home)
    must(len(found) == 1, f"one engine runs, not {len(found)}")
    engine = found[0]
    print(f"$ kill -9 {engine.pid}    # the engine, with {shown()['done']} of {items} images read")
    engine.send_signal(signal.SIGKILL)
    wait_for(lambda: shown()["state"] == "done", 150, "the batch is done")
    halve("job", "show", "1")
    lines = (results / "results.jsonl").read_text(encoding="utf-8").splitlines()
    names = [json.loads(line)["original_filename"] for line in lines]
    must(sorted(names) == sorted(file.name for file in source.iterdir()), "every image has exactly one result")
    print(f"{len(names)} results for {items} images: none lost, none twice")


def shown() -> dict[str, Any]:
    command = [sys.executable, "-m", "orchestrator", "job", "show", "1", "--json"]
    return dict(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))


def next_minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0) + timedelta(minutes=1)


def wait_until(at: datetime, what: str) -> None:
    seconds = (at - datetime.now(UTC)).total_seconds()
    if seconds > 0:
        print(f"\n... {seconds:.0f} s until {what}", flush=True)
        time.sleep(seconds)
    time.sleep(2)  # the loop's own second, and the door's


def wait_for(reached: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        must(time.monotonic() < deadline, f"{what} within {seconds:.0f} s")
        time.sleep(0.2)


def chapter(title: str) -> None:
    print(f"\n=== {title}", flush=True)


def must(true: bool, what: str) -> None:
    if not true:
        raise SystemExit(f"demo: expected that {what}")


if __name__ == "__main__":
    sys.exit(main())
