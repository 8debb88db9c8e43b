"""The rules of the house that no linter knows."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
import typer
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from orchestrator.cli import COMMANDS
from orchestrator.ledger import store, tables
from policies.lifecycle import LIVE, OVER, STARTING, TRANSITIONS, Status

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("policies", "orchestrator", "inference")
#: what a pure function does not call, whatever it was imported as
IMPURE = {"print", "open", "input", "exec", "eval", "now", "utcnow", "today", "time", "monotonic", "sleep", "getenv"}
IMPURE_MODULES = {"time", "random", "secrets", "os", "sys", "io", "pathlib", "socket", "subprocess", "threading"}
IMPURE_MODULES |= {"logging", "asyncio", "tempfile", "shutil", "uuid", "urllib", "http"}


def sources(package: str) -> Iterator[Path]:
    yield from sorted((ROOT / package).rglob("*.py"))


# the ledger's schema


def test_the_head_that_the_code_speaks_is_that_of_the_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(store.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [store.HEAD]


@pytest.fixture
def migrated(tmp_path: Path) -> sa.Engine:
    """A database that has had every migration, from the first on."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'migrated.db'}")
    with engine.begin() as tx:
        store.upgrade(tx)
    return engine


def test_the_migrations_make_the_tables_that_the_code_uses(migrated: sa.Engine) -> None:
    with migrated.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, tables.metadata) == []


def test_a_new_ledger_is_what_all_migrations_come_to(migrated: sa.Engine, tmp_path: Path) -> None:
    """A new one is made at once, without them: to the letter the same but for the order of columns."""
    old, new = kept(migrated), kept(store.open_ledger(tmp_path).engine)
    assert new == old
    assert len(new) > len(tables.metadata.tables)  # and the indexes
    with migrated.connect() as old_tx, store.open_ledger(tmp_path).read() as new_tx:
        assert store.current_revision(new_tx) == store.current_revision(old_tx) == store.HEAD


def kept(engine: sa.Engine) -> dict[str, list[str]]:
    """What SQLite keeps of each table and index: the parts of the statement that made it, sorted."""
    with engine.connect() as tx:
        found = tx.execute(sa.text("SELECT type || ' ' || name, coalesce(sql, '') FROM sqlite_master"))
        return {name: sorted(" ".join(part.rstrip(" \n)").split()) for part in sql.split(",")) for name, sql in found}


def test_the_comparison_would_see_a_difference(tmp_path: Path) -> None:
    ledger = store.open_ledger(tmp_path)
    changed = sa.MetaData()
    for table in tables.metadata.tables.values():
        table.to_metadata(changed)
    changed.tables["lease"].append_column(sa.Column("forgotten", sa.Integer))
    with ledger.engine.connect() as connection:
        (difference,) = compare_metadata(MigrationContext.configure(connection), changed)
    assert difference[:3] == ("add_column", None, "lease")


# purity


def impurities(source: str) -> list[str]:
    """Calls and imports that make a module depend on more than its arguments."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            if name in IMPURE and not (name == "time" and isinstance(function, ast.Name)):  # datetime.time is a value
                found.append(f"line {node.lineno} calls {name}")
        elif isinstance(node, ast.Import):
            found += [f"imports {one.name}" for one in node.names if one.name.partition(".")[0] in IMPURE_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in IMPURE_MODULES:
            found.append(f"imports from {node.module}")
        elif isinstance(node, ast.Global):
            found.append(f"line {node.lineno} has a global")
        elif isinstance(node, ast.Attribute) and node.attr == "random":
            found.append(f"line {node.lineno} uses randomness")
    return found


@pytest.mark.parametrize("path", list(sources("policies")), ids=lambda path: path.stem)
def test_policies_know_nothing_but_their_arguments(path: Path) -> None:
    assert impurities(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "from datetime import datetime\nx = datetime.now()",
        "print('x')",
        "open('x')",
        "import random",
        "import os.path",
        "from time import monotonic as t",
        "import numpy as np\nx = np.random.default_rng()",
        "def f():\n    global x",
    ],
)
def test_impurity_is_seen(source: str) -> None:
    assert impurities(source)


# the command line


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_help_line_is_how_its_docstring_starts(name: str) -> None:
    module, function, line = COMMANDS[name]
    found = getattr(importlib.import_module(module), function)
    if isinstance(found, typer.Typer):
        text = found.info.help
        callback = found.registered_callback
        assert callback is None or inspect.getdoc(callback.callback) == text
    else:
        text = inspect.getdoc(found)
    assert (text or "").startswith(line.rstrip("."))


@pytest.mark.parametrize("name", [name for name, (_, function, _) in COMMANDS.items() if function != "app"])
def test_a_commands_docstring_ends_with_an_example(name: str) -> None:
    module, function, _ = COMMANDS[name]
    text = inspect.getdoc(getattr(importlib.import_module(module), function)) or ""
    assert text.splitlines()[-1].startswith(f"Example: halve {name}")


# the house itself


@pytest.mark.parametrize("package", PACKAGES)
def test_a_file_is_one_noun(package: str) -> None:
    long = {str(path.relative_to(ROOT)): count for path in sources(package) if (count := lines(path)) > 500}
    assert long == {}


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in sources(package)
        if path.read_text(encoding="utf-8").strip() and ast.get_docstring(ast.parse(path.read_text("utf-8"))) is None
    ]
    assert silent == []


def test_every_status_can_be_reached_and_left() -> None:
    """The table of transitions is the diagram: no dead end but what is over, nothing that nobody reaches."""
    reached = {finish for _, finish in TRANSITIONS} | {Status.REQUESTED}
    assert reached == set(Status)
    for status in set(Status) - OVER:
        seen, ahead = {status}, [status]
        while ahead:
            start = ahead.pop()
            following = {finish for one, finish in TRANSITIONS if one == start} - seen
            seen |= following
            ahead += following
        assert seen & OVER, status
    assert not OVER & LIVE
    assert STARTING < LIVE
    assert all(words for words in TRANSITIONS.values())
    assert {finish for start, finish in TRANSITIONS if start in OVER} == {Status.DRAINING}
