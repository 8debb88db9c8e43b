"""halve hosts"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from orchestrator.providers.ssh.host import Host

app = typer.Typer(
    help="List machines of one's own; add, trust, look at, let go of them.\n\nExample: halve hosts",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)

NAME = typer.Argument(metavar="NAME", help="Its address, with the port where that is not 22: box1, box2:2222.")
FINGERPRINT = typer.Option("", "--fingerprint", metavar="SHA256:...", help="Trust the key if it has this fingerprint.")
JSON = typer.Option(False, "--json", help="Print JSON.")


@app.callback()
def hosts(context: typer.Context, json: bool = JSON) -> None:
    """List machines of one's own; add, trust, look at, let go of them.

    Example: halve hosts
    """
    if context.invoked_subcommand is not None:
        return
    from dataclasses import asdict
    from json import dumps

    from rich.console import Console
    from rich.table import Table

    from orchestrator.clock import SystemClock
    from orchestrator.home import home
    from orchestrator.owned import watts
    from orchestrator.providers.ssh import care

    found = care.standings(home(), SystemClock().now())
    if json:
        print(dumps([asdict(one) for one in found], indent=2, ensure_ascii=False))
        return
    if not found:
        print("no hosts yet; `halve hosts add ADDRESS` adds one")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("host", "gpu", "replicas", "state"):
        table.add_column(name, justify="right" if name == "replicas" else "left", overflow="fold")
    for one in found:
        words = "ready" if one.state == "ready" else one.why
        ahead = one.clock_ahead_seconds
        if ahead is not None and abs(ahead) > care.SKEW_SECONDS:
            words += f"; its clock is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}: ours counts"
        words += f"; power {watts(asdict(one.draw))}" if one.state == "ready" else ""
        table.add_row(one.name, one.gpu or "unknown", str(len(one.replicas)), words)
    Console(highlight=False).print(table, markup=False)


@app.command()
def add(
    name: str = NAME,
    user: str = typer.Option(None, "--user", metavar="USER", help="Who logs in. Default: who runs this."),
    key: Path = typer.Option(None, "--key", metavar="FILE", help="Private key. Default: ssh's own and its agent's."),
    python: str = typer.Option("python3", "--python", metavar="PATH", help="Its Python, 3.11 or newer."),
    fingerprint: str = FINGERPRINT,
) -> None:
    """Add a host: confirm its key, connect, and install halve there.

    A deployment that names it in its spec does the rest. What the spec says of it counts from then on.

    Example: halve hosts add box1 --user halve
    """
    from orchestrator.clock import SystemClock
    from orchestrator.home import home
    from orchestrator.providers.ssh import care
    from orchestrator.providers.ssh.host import Host, remember

    address, port = care.parsed(name)
    path = None if key is None else str(key.expanduser().absolute())
    host = Host(address=address, port=port, user=user, key=path, python=python)
    _confirm(host, fingerprint)
    remember(home(), host)
    found = care.made_ready(home(), host.name, SystemClock().now, lambda line: print(line, file=sys.stderr))
    watts = "" if found.watts is None else f", {found.watts:.0f} W at most"
    print(f"{host.name} is ready: {found.gpu}{watts}, halve {found.version} installed")


@app.command()
def trust(name: str = NAME, fingerprint: str = FINGERPRINT) -> None:
    """Confirm the key that a host shows now, in place of the one that was trusted.

    Example: halve hosts trust box1
    """
    from orchestrator.home import home
    from orchestrator.providers.ssh import care
    from orchestrator.providers.ssh.host import Host, recall

    address, port = care.parsed(name)
    _confirm(recall(home(), name) or Host(address=address, port=port), fingerprint)


@app.command()
def logs(name: str = NAME, json: bool = JSON) -> None:
    """Print the last lines of each replica on a host.

    Example: halve hosts logs box1
    """
    from json import dumps

    from orchestrator.home import home
    from orchestrator.providers.ssh import care

    found = care.logs(home(), name)
    if json:
        print(dumps(found, indent=2, ensure_ascii=False))
        return
    for token, text in found.items():
        print(f"==> {token} <==\n{text}")
    if not found:
        print(f"no replica has run on {name} lately")


@app.command()
def remove(
    name: str = NAME,
    forget: bool = typer.Option(False, "--forget", help="It is gone for good: forget it without asking it."),
) -> None:
    """End what runs on a host, remove all that was put there, and forget it.

    Example: halve hosts remove box1
    """
    from orchestrator import hosts as specs
    from orchestrator.home import home
    from orchestrator.ledger.store import open_ledger
    from orchestrator.providers.ssh import care

    ledger = open_ledger(home())
    try:
        specs.check_unused(ledger, name)
    finally:
        ledger.close()
    specs.check_installed()
    print(f"{name}: {care.remove(home(), name, asking=not forget)}")


def _confirm(host: "Host", fingerprint: str) -> None:
    """Trust the key that the host shows, once somebody has said so who can know."""
    from orchestrator import hosts as specs
    from orchestrator.errors import Refused
    from orchestrator.home import home

    specs.check_installed()
    from orchestrator.providers.ssh import keys

    shown = keys.offered(host)
    before = keys.trusted(home(), host)
    if before is not None and before[0].fingerprint == shown.fingerprint:
        print(f"{host.name} shows {shown.fingerprint}, which is trusted")
        return
    print(f"{host.name} shows {shown.fingerprint}")
    if before is not None:
        print(f"trusted until now: {before[0].fingerprint} ({keys.known_hosts(home())}:{before[1]})")
    if fingerprint and fingerprint != shown.fingerprint:
        raise Refused(f"{host.name} shows another key than {fingerprint}: nothing was changed")
    if not fingerprint:
        on_it = "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
        if not sys.stdin.isatty():
            raise Refused(f"compare it with what `{on_it}` prints there, then: --fingerprint {shown.fingerprint}")
        if not typer.confirm(f"Is that what `{on_it}` prints there?"):
            raise Refused(f"the key of {host.name} was not confirmed: nothing was changed")
    keys.trust(home(), host, shown)
