"""Keys and certificates as machines make them for themselves."""

import subprocess
from pathlib import Path


def certified(folder: Path, name: str) -> tuple[Path, Path]:
    """A new key and its certificate, each time others."""
    key, certificate = folder / f"{name}.key.pem", folder / f"{name}.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-days", "36500", "-subj", "/CN=halve replica"]
    made = [*make, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    return key, certificate
