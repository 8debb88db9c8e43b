"""python -m inference --host H --port P: one replica in the foreground."""

import argparse
import logging
import sys
from pathlib import Path
from typing import get_args

import inference
from inference.backends import Accelerator, Backend, Precision


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m inference", description="Serve the engine over HTTP.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7860, help="0 picks a free one")
    parser.add_argument("--model", default="ppocr", help="a model's name, or the path of a model card (.yaml)")
    parser.add_argument("--accelerator", choices=get_args(Accelerator), default="auto")
    parser.add_argument("--backend", choices=get_args(Backend), default="auto")
    parser.add_argument(
        "--precision",
        choices=("auto", *get_args(Precision)),
        default="auto",
        help="auto is what was measured best on this device (halve profile --precisions), fp32 until then",
    )
    parser.add_argument("--workers", type=int, help="images read at once (default: one per core)")
    parser.add_argument("--threads", type=int, default=1, help="threads per worker (default: 1)")
    parser.add_argument("--queue", type=int, default=64, help="images that may wait (default: 64)")
    parser.add_argument(
        "--allow-source",
        action="append",
        default=[],
        metavar="SOURCE",
        help="folder (file:///scans) or bucket (s3://bucket/prefix) that requests may name; repeatable (default: none)",
    )
    parser.add_argument("--announce", type=Path, metavar="FILE", help="write pid, port, url there once listening")
    parser.add_argument("--tls-certificate", type=Path, metavar="PEM", help="answer over TLS as whom this file says")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="the key of --tls-certificate")
    parser.add_argument("--tls-client", type=Path, metavar="PEM", help="answer nobody but the bearer of this one")
    parser.add_argument("--notices", type=Path, metavar="FILE", help="where this machine's watcher says when it ends")
    options = parser.parse_args()
    for name in ("workers", "threads", "queue"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1")
    if (options.tls_certificate is None) != (options.tls_key is None):
        parser.error("--tls-certificate and --tls-key belong together")
    if options.tls_client and not options.tls_key:
        parser.error("--tls-client needs --tls-certificate and --tls-key")
    if absent := inference.absent_packages():
        print(f"the engine is not installed ({', '.join(absent)} missing): pip install 'halve[cpu]'", file=sys.stderr)
        return 1
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    from inference import choice, listener
    from inference.service import Settings

    backend, precision = options.backend, options.precision
    if precision == "auto":
        backend, precision = choice.remembered(options.model, backend, options.accelerator)
    settings = Settings(
        model=options.model,
        accelerator=options.accelerator,
        backend=backend,
        precision=precision,
        workers=options.workers,
        threads=options.threads,
        queue=options.queue,
        sources=tuple(options.allow_source),
        notices=options.notices,
    )
    tls = None
    if options.tls_certificate:
        tls = listener.Tls(certificate=options.tls_certificate, key=options.tls_key, client=options.tls_client)
    try:
        listener.serve(settings, host=options.host, port=options.port, announce=options.announce, tls=tls)
    except listener.CannotServe as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
