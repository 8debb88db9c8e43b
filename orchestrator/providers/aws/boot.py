"""What a machine does first: its watchdog, then the engine. The template and its parts lie in infra/cloud-init."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

import orchestrator
from orchestrator.providers import Misconfigured
from orchestrator.providers.aws.settings import ENGINE_PORT, WATCHDOG_PORT, Installation, is_container

#: raw, as EC2 counts it
USER_DATA_MAX = 16_384
#: as often as AWS advises to look for an interruption
POLL_SECONDS = 5
#: how often a machine says on its console by which certificate it is known
SAY_SECONDS = 60
ENGINE_OPTIONS = ("backend", "precision", "workers", "threads")


def user_data(
    payload: Mapping[str, Any], frozen: Mapping[str, Any], installation: Installation, token: str, region: str
) -> str:
    """A cloud-config, the same for the same arguments; of what is secret only a hash or the public half is in it.

    Raises Misconfigured when it is larger than EC2 takes.
    """
    said = {
        "lease_seconds": int(frozen["lease_seconds"]),
        "word_sha256": hashlib.sha256(installation.word(token).encode()).hexdigest(),
        "controller": installation.certificate,
        "tls": "/opt/halve/tls",
        "console": "/dev/console",
        "say_seconds": SAY_SECONDS,
        "address": "0.0.0.0",
        "port": WATCHDOG_PORT,
        "poll_seconds": POLL_SECONDS,
        "poweroff": ["systemctl", "poweroff"],
        "kept": "/run/halve-lease",
        "notices": "/run/halve-notices/notices.json",
        "metadata": "http://169.254.169.254",
    }
    container = _plain(str(frozen["image"])) if is_container(str(frozen["image"])) else ""
    wheel = {} if container else frozen["wheel"] or {}
    values = {
        "lease_seconds": str(said["lease_seconds"]),
        "lease": json.dumps(json.dumps(said, sort_keys=True)),
        "controller": json.dumps(installation.certificate),
        "watchdog": json.dumps(part("watchdog.py")),
        "watchdog_unit": json.dumps(part("halve-watchdog.service")),
        "install": json.dumps(part("install.sh")),
        "cuda12": json.dumps(part("cuda12.txt")),
        "engine_unit": json.dumps(part("halve-engine-container.service" if container else "halve-engine.service")),
        "engine": json.dumps(
            _environment(
                {
                    "HALVE_IMAGE": container,
                    "HALVE_WHEEL": f"s3://{frozen['bucket']}/{wheel['key']}" if wheel else "",
                    "HALVE_WHEEL_SHA256": wheel.get("sha256", ""),
                    "HALVE_REGION": region,
                    "HALVE_ENGINE": " ".join(_engine(payload)),
                }
            )
        ),
    }
    text = Template(part("replica.yaml")).substitute(values)
    if len(text.encode()) > USER_DATA_MAX:
        raise Misconfigured(f"a machine can be told {USER_DATA_MAX} bytes, and this is {len(text.encode())}")
    return text


@cache
def part(name: str) -> str:
    """A file of infra/cloud-init: from the wheel, or beside the packages in a checkout."""
    return (folder("cloud-init") / name).read_text(encoding="utf-8")


def folder(name: str) -> Path:
    """A folder of infra."""
    packages = Path(orchestrator.__file__).parent
    installed = packages / "infra" / name
    return installed if installed.is_dir() else packages.parent / "infra" / name


def _engine(payload: Mapping[str, Any]) -> list[str]:
    words = ["--host", "0.0.0.0", "--port", str(ENGINE_PORT), "--model", str(payload.get("model", "ppocr"))]
    engine = payload.get("engine", {})
    for name in ENGINE_OPTIONS:
        if name in engine:
            words += [f"--{name}", str(engine[name])]
    return [_plain(word) for word in words]


#: what neither a shell, nor systemd, nor YAML reads anything into
WORD = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:@")


def _plain(word: str) -> str:
    if not word or set(word) - WORD:
        raise Misconfigured(f"a machine on AWS cannot be told {word!r}")
    return word


def _environment(values: Mapping[str, str]) -> str:
    """As systemd and a shell both read it."""
    return "".join(f'{name}="{value}"\n' for name, value in values.items())
