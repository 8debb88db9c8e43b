"""Runs on a host, out of the wheel itself, before anything is installed there: the standard library only.

    PYTHONPATH=WHEEL python3 -m orchestrator.providers.ssh.installing ENVIRONMENT WHEEL

Makes a private environment whose `ready` file says that it is whole. Where this Python has all packages that the wheel
needs, they are used from there; else pip installs them. Environments that nobody runs in any more are removed.
"""

import fcntl
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def main() -> None:
    environment, wheel = Path(sys.argv[1]), Path(sys.argv[2])
    environment.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (environment.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (environment / "ready").exists():
                shutil.rmtree(environment, ignore_errors=True)
                install(environment, wheel)
                (environment / "ready").touch()
            for other in list(environment.parent.iterdir()):
                if other.is_dir() and other != environment and not _in_use(other):
                    shutil.rmtree(other, ignore_errors=True)
            for other in list(wheel.parent.parent.iterdir()):
                if other != wheel.parent:
                    shutil.rmtree(other, ignore_errors=True)
    except OSError as error:
        sys.exit(f"{error.filename or environment}: {error.strerror or error}")
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or b"").decode(errors="replace").strip().splitlines()
        sys.exit(said[-1] if said else f"{error.cmd[0]} ended with {error.returncode}")


def install(environment: Path, wheel: Path) -> None:
    """Fill a new environment. Raises OSError or CalledProcessError."""
    extra = "gpu" if shutil.which("nvidia-smi") else "cpu"
    if absent(extra):
        venv.create(environment, with_pip=True, symlinks=True)
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-cache-dir"]
        subprocess.run([*pip, f"{wheel}[{extra}]"], check=True, capture_output=True)
        return
    venv.create(environment, with_pip=False, symlinks=True)
    paths = sysconfig.get_paths("venv", {"base": str(environment), "platbase": str(environment)})
    packages = Path(paths["purelib"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    lent = "".join(f"import site; site.addsitedir({folder!r})\n" for folder in site.getsitepackages())
    (packages / "lent.pth").write_text(lent, encoding="utf-8")


def absent(extra: str) -> list[str]:
    """The packages that the wheel wants with this extra, and that this Python does not have."""
    missing = []
    for line in distribution("halve").requires or ():
        wanted, _, marker = line.partition(";")
        name = _NAME.match(wanted)
        if name is None or ("extra ==" in marker and not re.search(rf"extra == ['\"]{extra}['\"]", marker)):
            continue
        try:
            distribution(name.group())
        except PackageNotFoundError:
            missing.append(name.group())
    return missing


def _in_use(environment: Path) -> bool:
    start = f"{environment}/".encode()
    return any(line.startswith(start) for line in _command_lines())


def _command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_bytes()


if __name__ == "__main__":
    main()
