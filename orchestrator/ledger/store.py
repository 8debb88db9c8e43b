"""Where the ledger lives: the engine, its transactions, its migrations, and the fence of a stale daemon."""

import logging
import os
import secrets
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from orchestrator.errors import Refused
from orchestrator.ledger import damage
from orchestrator.ledger import tables as t

log = logging.getLogger("halve.ledger")

#: what a function that reads or writes is handed; nobody else needs to know which library it is
Transaction = sa.Connection

BUSY_TIMEOUT_MS = 15_000
#: the schema that this code speaks; alembic is loaded only when a database is behind it
HEAD = "0006"
KEY_BYTES = 32
MIGRATIONS = Path(__file__).parent / "migrations"
#: asked before every write
IN_FORCE = sa.select(t.lease.c.generation).where(t.lease.c.name == "daemon")
#: alembic's own table
VERSION = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
#: what SQLite says when there is no room, when it may not write, or when somebody else writes for too long
NO_ROOM = ("disk is full", "disk i/o error", "readonly database", "unable to open", "database is locked")


class Stale(Exception):
    """Another daemon has taken the lease: nothing that this one still writes may count."""


class LedgerUnwritable(Refused):
    """The ledger cannot be written now (no room, no permission). Nothing was lost: the transaction did not happen."""


class Ledger:
    """The one persistence. `write()` is one transaction, refused as a whole once `generation` is stale."""

    def __init__(self, engine: sa.Engine, key: bytes) -> None:
        self.engine = engine
        self.key = key  # of this installation: tokens and per-replica secrets are derived from it
        #: set by the daemon when it holds the lease; every write is fenced by it
        self.generation: int | None = None

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A consistent view. Writes nothing."""
        with said_plainly(self.engine), transaction(self.engine) as tx:
            yield tx

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction: all of it or nothing. Raises Stale, or LedgerUnwritable when there is no room."""
        with said_plainly(self.engine), transaction(self.engine, writes=True) as tx:
            self._fence(tx)
            yield tx

    def _fence(self, tx: sa.Connection) -> None:
        if self.generation is None:
            return
        held = tx.scalar(IN_FORCE)
        if held != self.generation:
            raise Stale(f"generation {self.generation} is over, the lease is at {held}")

    def installation_id(self) -> str:
        with self.read() as tx:
            return str(tx.execute(sa.select(t.installation.c.id)).scalar_one())

    def simulated(self) -> bool:
        with self.read() as tx:
            return is_simulated(tx)

    def hurry(self) -> None:
        """Do not wait for the disk: for a ledger that is thrown away when its writing is cut short."""
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
            self.engine.dispose()

    def close(self) -> None:
        self.engine.dispose()


def is_simulated(tx: Transaction) -> bool:
    """Whether the ledger holds simulated money. It never holds both."""
    return bool(tx.execute(sa.select(t.installation.c.simulated)).scalar_one())


def mark_simulated(tx: Transaction) -> None:
    """From now on the ledger holds simulated money; only one that holds no money yet may be marked."""
    tx.execute(t.installation.update().values(simulated=True))


@contextmanager
def said_plainly(engine: sa.Engine) -> Iterator[None]:
    """Turn the driver's words for a full or read-only disk, or a damaged file, into one line for a person."""
    try:
        yield
    except DatabaseError as error:
        damage.refuse(engine.url.database, error.orig)
        words = str(error.orig).lower()
        if isinstance(error, OperationalError) and any(sign in words for sign in NO_ROOM):
            raise LedgerUnwritable(
                f"ledger {engine.url.database}: {error.orig}; nothing was lost: "
                "make room, allow writing, or end who else writes; it goes on by itself"
            ) from None
        raise


def open_ledger(home: Path, url: str | None = None, *, simulated: bool = False) -> Ledger:
    """Open the ledger of HALVE_HOME (or the database `url`), created and migrated as needed.

    Raises Refused when it was written by a newer halve, is no database, or cannot be created.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        key = installation_key(home)
    except OSError as error:
        raise Refused(f"HALVE_HOME {home}: {error.strerror}; set HALVE_HOME to a folder that can be written") from None
    return _open(url or address(home), key, simulated, home)


def address(home: Path) -> str:
    """The database of this HALVE_HOME, as a URL."""
    return os.environ.get("HALVE_DATABASE_URL") or f"sqlite:///{home / 'halve.db'}"


def open_file(path: Path, *, simulated: bool = False, create: bool = False) -> Ledger:
    """Open one ledger file, as `--ledger FILE` names it. Raises Refused when it is not there, unless `create`, and for
    what is no ledger: nothing of it is touched.
    """
    if not create:
        damage.look(path)
    return _open(f"sqlite:///{path}", b"simulated" if simulated else b"file", simulated)


def _open(url: str, key: bytes, simulated: bool, home: Path | None = None) -> Ledger:
    try:
        engine = sa.create_engine(url)
    except (ArgumentError, ImportError) as error:  # the URL itself may hold a password: it is not repeated
        raise Refused(
            f"ledger: HALVE_DATABASE_URL: {str(error).partition(' from ')[0]}; "
            "want sqlite, or postgresql with its driver (pip install 'halve[postgresql]')"
        ) from None
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", tune_sqlite)
    try:
        migrate(engine, home)
        with transaction(engine, writes=True) as tx:
            if tx.execute(sa.select(t.installation.c.id)).first() is None:
                row = {"id": str(uuid.uuid4()), "created_at": datetime.now(UTC), "simulated": simulated}
                tx.execute(t.installation.insert().values(row))
    except DatabaseError as error:
        file = engine.url.database or engine.url.host
        damage.refuse(file, error.orig)
        raise Refused(f"ledger {file}: {' '.join(str(error.orig).split())}") from None
    return Ledger(engine, key)


def installation_key(home: Path) -> bytes:
    """The secret of this installation, made once. Tokens are derived from it, so it must outlive every crash."""
    path = home / "installation.key"
    if not path.exists():
        draft = home / f".installation.{secrets.token_hex(4)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)  # the first one wins, whole
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    key = path.read_bytes()
    if len(key) < KEY_BYTES:
        raise Refused(
            f"{path}: {len(key)} bytes are no key; put back the one that was kept beside the ledger's copy "
            "(with another, machines that run now are strangers)"
        )
    return key


def migrate(engine: sa.Engine, home: Path | None = None) -> None:
    """Bring the schema up to HEAD; of HALVE_HOME's own ledger a copy is kept first.

    Raises Refused when a newer halve has written it.
    """
    with transaction(engine) as tx:
        present = current_revision(tx)
    if present == HEAD:
        return
    if present is not None and present not in revisions():
        raise Refused(
            f"ledger {engine.url.database}: written by a newer halve (schema {present}); "
            "install that version, nothing was changed"
        )
    if present is not None and home is not None and engine.dialect.name == "sqlite":
        _copy_first(Path(str(engine.url.database)), home)
    with transaction(engine, writes=True) as tx:
        present = current_revision(tx)  # somebody may have been faster
        if present is None:
            _create(tx)
        elif present != HEAD:
            upgrade(tx)


def _create(tx: sa.Connection) -> None:
    """A new database gets the tables as they are today, at once: just what all migrations, one by one, come to."""
    t.metadata.create_all(tx, checkfirst=False)
    VERSION.create(tx)
    tx.execute(VERSION.insert().values(version_num=HEAD))


def upgrade(tx: sa.Connection) -> None:
    """Run the migrations that the database has not had yet."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = tx
    command.upgrade(config, "head")


def _copy_first(database: Path, home: Path) -> None:
    """Without room for a copy the schema changes all the same: that is one transaction."""
    from orchestrator.ledger import backup

    try:
        log.info(
            "the ledger's schema changes; as it was it is kept as %s", backup.keep(database, home, datetime.now(UTC))
        )
    except Refused as refusal:
        log.warning("%s", refusal)


def revisions() -> set[str]:
    """Every schema that this code can read or bring up to HEAD."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}


def current_revision(tx: sa.Connection) -> str | None:
    """The schema's revision, or None for a database that has none yet."""
    if not sa.inspect(tx).has_table("alembic_version"):
        return None
    found = tx.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


@contextmanager
def transaction(engine: sa.Engine, *, writes: bool = False) -> Iterator[sa.Connection]:
    """One transaction: committed at its end, rolled back when it raises.

    SQLite's are begun here, not by an event of the engine: with one, every statement would be announced four times.
    """
    with engine.connect() as tx, tx.begin():
        if engine.dialect.name == "sqlite":
            if writes:  # takes its lock at once: one that reads first and writes later could fail half-way
                tx.exec_driver_sql("BEGIN IMMEDIATE")
            else:  # cannot fail, so nobody need translate its errors
                driver = tx.connection.driver_connection
                assert driver is not None
                driver.execute("BEGIN")
        yield tx


def tune_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions are ours: BEGIN IMMEDIATE, not the driver's late BEGIN
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    _keep_a_log(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _keep_a_log(connection: sqlite3.Connection) -> None:
    """Write ahead, to a log. A new file is changed to it by whoever is first, and the others are refused at once:
    SQLite asks no busy handler there.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # the rest of the code says what with
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
