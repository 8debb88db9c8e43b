"""The command line. Each command is a thin module of its own, imported only when it is the one that runs.

To add a command: one line in COMMANDS, one module with a function of that name whose docstring starts
with the same words.
"""

import os
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from orchestrator import __version__

#: name -> (module, function or Typer app in it, one line of help)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "read": ("orchestrator.cli.read", "read", "Read the text of images on this machine."),
    "run": ("orchestrator.cli.run", "run", "Read every image of a folder into another folder."),
    "serve": ("orchestrator.cli.serve", "serve", "Serve the engine over HTTP in the foreground."),
    "bench": ("orchestrator.cli.bench", "bench", "Measure this machine; --record adds its rows to the table."),
    "profile": ("orchestrator.cli.profile", "profile", "Show where the model's time goes, and what can be cut."),
    "export": ("orchestrator.cli.export", "export", "Write a model's detector as an ONNX file for any size and batch."),
    "up": ("orchestrator.cli.up", "up", "Keep a spec true: hand it to the live daemon, or start one."),
    "daemon": ("orchestrator.cli.daemon", "daemon", "Run the daemon in the foreground (for systemd)."),
    "down": ("orchestrator.cli.down", "down", "Drain a deployment and stop it."),
    "plan": ("orchestrator.cli.plan", "plan", "Show which machines a spec would take and what they cost."),
    "status": ("orchestrator.cli.status", "status", "Show deployments, machines and money spent this month."),
    "why": ("orchestrator.cli.why", "why", "Explain the last decision about a deployment."),
    "override": ("orchestrator.cli.override", "override", "Hold a deployment open or closed until a time."),
    "windows": ("orchestrator.cli.windows", "windows", "List when a spec is open."),
    "prices": (
        "orchestrator.cli.prices",
        "app",
        "Show prices in force, their sources and ages; ask for new ones; take in lists.",
    ),
    "gpus": ("orchestrator.cli.gpus", "gpus", "Compare GPUs by price over measured throughput."),
    "hosts": ("orchestrator.cli.hosts", "app", "List machines of one's own; add, trust, look at, let go of them."),
    "aws": ("orchestrator.cli.aws", "app", "Rented machines on AWS: what an account lacks."),
    "job": ("orchestrator.cli.job", "app", "Submit and follow batches."),
    "report": ("orchestrator.cli.report", "report", "Print what a month cost and what was saved."),
    "dashboard": ("orchestrator.cli.dashboard", "dashboard", "Serve pages about what runs, what it costs and why."),
    "backtest": ("orchestrator.cli.backtest", "app", "Replay spot policies over traces against the offline optimum."),
    "simulate": ("orchestrator.cli.simulate", "simulate", "Run the loop on a virtual clock: a month, or bad days."),
    "doctor": ("orchestrator.cli.doctor", "doctor", "Find what stands in the way here, with its remedy."),
    "ledger": ("orchestrator.cli.ledger", "app", "Check the ledger, copy it, and go back to a copy."),
}


class LazyGroup(TyperGroup):
    """A group that knows its commands by name and loads only the one that is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, name, _ = COMMANDS[cmd_name]
        found = getattr(import_module(module), name)
        if isinstance(found, typer.Typer):
            return get_command(found)
        alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        alone.command(name=cmd_name)(found)
        return get_command(alone)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"halve {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Keep an OCR service or a batch on the cheapest GPUs that keep its promise, and see what it cost.

    Example: halve up infra/examples/daytime-ocr.yaml
    """


def main() -> None:
    """Run one command. A refusal is one clear line on stderr and exit code 1, never a traceback; so is a file that the
    system does not give.
    """
    from orchestrator.errors import Refused

    _bear_with_terminals()
    try:
        app()
    except Refused as refusal:
        _say(str(refusal))
        raise SystemExit(1) from None
    except OSError as error:
        if error.filename is None:
            raise
        _say(f"{error.filename}: {error.strerror}")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _bear_with_terminals() -> None:
    """What a terminal's encoding lacks is a question mark there, no traceback; no columns at all is no width."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if not os.environ.get("COLUMNS", "80").strip("0").isdigit():
        del os.environ["COLUMNS"]


def _say(words: str) -> None:
    from orchestrator.cli.width import within

    print(within(f"halve: {words}", sys.stderr), file=sys.stderr)
