"""python -m orchestrator.door --home DIR --deployment NAME --listen HOST:PORT"""

import argparse
import logging
import sys
from pathlib import Path

from orchestrator.door.options import Options
from orchestrator.door.server import serve
from orchestrator.door.sparing import Sparing
from orchestrator.errors import Refused


def main() -> int:
    """Be a deployment's door until SIGTERM. Exit code 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.door", description="The door of one deployment.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--deployment", required=True)
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--token-file", type=Path, help="who calls must send what it holds, as a bearer token")
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    options = Options(**vars(parser.parse_args()))
    lines = logging.StreamHandler()
    lines.addFilter(Sparing())
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, handlers=[lines])
    try:
        serve(options)
    except Refused as refusal:
        sys.stderr.write(f"halve: {refusal}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
