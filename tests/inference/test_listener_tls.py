"""A replica that answers over TLS, to one client alone."""

import json
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

START_SECONDS = 120.0
ANSWER_SECONDS = 60.0


def certified(folder: Path, name: str) -> tuple[Path, Path]:
    """A new key and its certificate."""
    key, certificate = folder / f"{name}.key.pem", folder / f"{name}.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", f"/CN={name}"]
    subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True, timeout=60)
    return key, certificate


def context(server: Path, client: tuple[Path, Path] | None) -> ssl.SSLContext:
    known = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    known.check_hostname = False
    known.load_verify_locations(server)
    if client:
        known.load_cert_chain(client[1], client[0])
    return known


def test_it_answers_who_it_was_told_of_and_nobody_else(tmp_path: Path) -> None:
    key, certificate = certified(tmp_path, "replica")
    ours, theirs = certified(tmp_path, "controller"), certified(tmp_path, "stranger")
    announcement = tmp_path / "announced.json"
    command = [sys.executable, "-m", "inference", "--port", "0", "--announce", str(announcement)]
    command += ["--tls-key", str(key), "--tls-certificate", str(certificate), "--tls-client", str(ours[1])]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            end = time.monotonic() + START_SECONDS
            while not announcement.exists():
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < end, "nothing announced"
                time.sleep(0.02)
            url = json.loads(announcement.read_text())["url"]
            assert url.startswith("https://")
            with httpx.Client(verify=context(certificate, ours), trust_env=False, timeout=ANSWER_SECONDS) as client:
                assert client.get(f"{url}/healthz").json()["status"] in ("loading", "ready")
            for client_of in (theirs, None):
                stranger = httpx.Client(verify=context(certificate, client_of), trust_env=False)
                with stranger as client, pytest.raises(httpx.TransportError):
                    client.get(f"{url}/healthz")
            with httpx.Client(trust_env=False) as client, pytest.raises(httpx.TransportError):
                client.get(f"{url.replace('https', 'http')}/healthz")
        finally:
            process.kill()


OWN = ["--tls-key", "{key}", "--tls-certificate", "{certificate}"]
WRONG = [
    ("no such file", ["--tls-key", "{key}", "--tls-certificate", "{none}"], 1, "No such file"),
    ("somebody else's key", ["--tls-key", "{other}", "--tls-certificate", "{certificate}"], 1, "mismatch"),
    ("a client that is none", [*OWN, "--tls-client", "{text}"], 1, "PEM"),
    ("half of it", ["--tls-key", "{key}"], 2, "belong together"),
    ("a client alone", ["--tls-client", "{certificate}"], 2, "needs --tls-certificate"),
]


@pytest.mark.parametrize(("words", "code", "said"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_no_certificate_is_refused_in_one_line(tmp_path: Path, words: list[str], code: int, said: str) -> None:
    key, certificate = certified(tmp_path, "replica")
    other, _ = certified(tmp_path, "other")
    text = tmp_path / "text"
    text.write_text("hello")
    files = {"key": key, "certificate": certificate, "other": other, "text": text, "none": tmp_path / "none"}
    command = [sys.executable, "-m", "inference", "--port", "0", *(word.format(**files) for word in words)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == code
    last = ran.stderr.strip().splitlines()[-1]
    assert said in last and "Traceback" not in ran.stderr
