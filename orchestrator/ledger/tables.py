"""The tables. Times are integer microseconds since 1970, UTC; money is integer micro-units, a currency beside it."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Moment(TypeDecorator[datetime]):
    """An aware UTC datetime, stored exactly as microseconds since 1970: sortable, and the same on every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a naive time reached the ledger: {value}")
        return (value - EPOCH) // MICROSECOND

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else EPOCH + timedelta(microseconds=int(value))


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

#: SQLite numbers rows by itself only for INTEGER keys.
Serial = BigInteger().with_variant(Integer, "sqlite")

#: the rows of a partial index: the pace of a job is read from its last settled items
SETTLED = text("settled_at IS NOT NULL")
#: those of machines that are not over: a tick looks at them alone, however many there were. A query has to say it in
#: these very words, for no parameter can be known to be one of them
ALIVE = text("status NOT IN ('ended', 'failed', 'preempted')")
#: those of machines that came up
STARTED = text("ready_at IS NOT NULL")
#: those of charges that run, that ended, and that are corrections
RUNNING, CLOSED = text("ended_at IS NULL AND amount_micros IS NULL"), text("ended_at IS NOT NULL")
CORRECTION = text("amount_micros IS NOT NULL")

installation = Table(
    "installation",
    metadata,
    Column("id", String(36), primary_key=True),  # the UUID of DESIGN §4: our tag, and nobody else's
    Column("created_at", Moment, nullable=False),
    Column("simulated", Boolean, nullable=False, default=False),  # simulated and real money never mix
)

deployments = Table(
    "deployments",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("spec", Text, nullable=False),
    Column("source", Text, nullable=False),  # the file it came from, for messages
    Column("version", Integer, nullable=False),
    Column("wanted", String(8), nullable=False),  # up | down
    Column("override_state", String(8)),  # open | closed
    Column("override_until", Moment),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
)

offers = Table(
    "offers",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("provider", String(40), nullable=False),
    Column("zone", String(60), nullable=False),
    Column("instance_type", String(60), nullable=False),
    Column("gpu", String(80), nullable=False),
    Column("purchase", String(16), nullable=False),
    Column("capacity", Integer),
    Column("seen_at", Moment, nullable=False),
    # what a launch there taught us; the memory of back-off
    Column("refusals", Integer, nullable=False, default=0),
    Column("refused_at", Moment),
    Column("refusal", Text),
    Column("losses", Integer, nullable=False, default=0),
    Column("lost_at", Moment),
)

prices = Table(
    "prices",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("offer_id", String(200), ForeignKey("offers.id"), nullable=False),
    Column("price_per_hour_micros", BigInteger),  # null: unknown from then on
    Column("currency", String(3), nullable=False),
    Column("source", Text, nullable=False),
    Column("effective_at", Moment, nullable=False),
    Column("recorded_at", Moment, nullable=False),
    Index(None, "offer_id", "effective_at"),
)

profiles = Table(
    "profiles",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("model", String(80), nullable=False),
    Column("gpu", String(120), nullable=False),
    Column("precision", String(16), nullable=False),
    Column("batch", Integer, nullable=False),
    Column("images_per_second", Float),  # null: unknown, never 0
    Column("p95_ms", Float),
    Column("memory_bytes", BigInteger),
    Column("source", String(16), nullable=False),  # seed | bench | observed
    Column("note", Text, nullable=False, default=""),
    Column("measured_at", Moment, nullable=False),
    Column(
        "size", String(16), nullable=False, server_default=text("''")
    ),  # small | middle | large; "" all sizes together
    Index(None, "model", "gpu"),
)

ticks = Table(
    "ticks",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("deployment", ForeignKey("deployments.name"), nullable=False),
    Column("at", Moment, nullable=False),
    Column("target", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("plan", JSON, nullable=False),
    Column("snapshot", JSON),  # kept when the plan was not empty: any decision can be replayed
    Index(None, "deployment", "at"),
    Index(None, "deployment", "id"),
)

intents = Table(
    "intents",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("deployment", ForeignKey("deployments.name"), nullable=False),
    Column("tick_id", ForeignKey("ticks.id"), nullable=False),
    Column("kind", String(12), nullable=False),  # launch | drain | terminate
    Column("instance_id", String(80), nullable=False),
    Column("token", String(64), nullable=False, default=""),  # of a launch
    Column("payload", JSON, nullable=False),  # frozen: a repeated call is the same call, byte for byte
    Column("reason", Text, nullable=False),
    Column("state", String(8), nullable=False),  # open | done | failed | void
    Column("opened_at", Moment, nullable=False),
    Column("attempted_at", Moment),
    Column("attempts", Integer, nullable=False, default=0),
    Column("settled_at", Moment),
    Column("error", Text),
    Index(None, "state"),
    Index(None, "instance_id"),
    Index(None, "deployment", "kind", "opened_at"),
)

instances = Table(
    "instances",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("deployment", ForeignKey("deployments.name"), nullable=False),
    Column("intent_id", ForeignKey("intents.id"), nullable=False),
    Column("token", String(64), nullable=False, unique=True),
    Column("provider", String(40), nullable=False),
    Column("provider_id", String(200)),
    Column("offer_id", String(200), nullable=False),
    Column("zone", String(60), nullable=False),
    Column("instance_type", String(60), nullable=False),
    Column("gpu", String(80), nullable=False),
    Column("purchase", String(16), nullable=False),
    Column("digest", String(64), nullable=False),  # of the spec's part that a replica runs by
    Column("status", String(12), nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("url", Text),
    Column("requested_at", Moment, nullable=False),
    Column("launched_at", Moment),
    Column("ready_at", Moment),
    Column("draining_at", Moment),
    Column("ended_at", Moment),
    Column("reclaim_at", Moment),
    Column("silent_since", Moment),  # no answer to probes since then
    Column("missing_since", Moment),  # not listed since then
    Column("rebalance_at", Moment),  # its provider recommends since then to leave it
    Index(None, "deployment", "status"),
    Index("ix_instances_alive", "deployment", "intent_id", sqlite_where=ALIVE, postgresql_where=ALIVE),
    Index("ix_instances_started", "deployment", "intent_id", sqlite_where=STARTED, postgresql_where=STARTED),
)

charges = Table(
    "charges",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("instance_id", ForeignKey("instances.id"), nullable=False),
    Column("deployment", String(40), nullable=False),
    Column("kind", String(12), nullable=False),  # compute | disk | address
    Column("gpu", String(80), nullable=False),
    Column("purchase", String(16), nullable=False),
    Column("price_per_hour_micros", BigInteger),  # null: unknown, never 0
    Column("currency", String(3), nullable=False),
    Column("started_at", Moment, nullable=False),
    Column("ended_at", Moment),  # null: open, the only row of an instance that may still be updated
    Column("corrects", ForeignKey("charges.id")),
    Column("amount_micros", BigInteger),  # set on corrections only; else it follows from price and time
    Index(None, "instance_id", "ended_at"),
    Index(None, "started_at"),
    Index("ix_charges_running", "deployment", sqlite_where=RUNNING, postgresql_where=RUNNING),
    Index("ix_charges_closed", "deployment", "ended_at", sqlite_where=CLOSED, postgresql_where=CLOSED),
    Index("ix_charges_corrections", "deployment", "started_at", sqlite_where=CORRECTION, postgresql_where=CORRECTION),
)

loads = Table(
    "loads",
    metadata,
    Column("deployment", String(40), primary_key=True),
    Column("instance_id", String(80), primary_key=True),  # "" for what no replica answered
    Column("at", Moment, primary_key=True),  # the minute
    Column("requests", Integer, nullable=False, default=0),
    Column("images", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    Column("refused", Integer, nullable=False, default=0),
    Column("latency_ms_sum", Float, nullable=False, default=0.0),
    Column("latency_ms_p95", Float),
    Column("queue_max", Integer, nullable=False, default=0),
    Index(None, "deployment", "at"),
)

beliefs = Table(
    "beliefs",
    metadata,
    Column("deployment", String(40), primary_key=True),
    Column("policy", String(20), primary_key=True),  # whose memory it is: placement | deadline
    Column("memory", JSON, nullable=False),  # plain numbers, as the policy gave them
    Column("updated_at", Moment, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("deployment", ForeignKey("deployments.name"), nullable=False),
    Column("source", Text, nullable=False),  # file system bytes by surrogateescape, JSON-quoted
    Column("destination", Text, nullable=False),  # the same
    Column("fields", JSON, nullable=False),
    Column("state", String(12), nullable=False),  # running | paused | done | cancelled
    Column("reason", Text, nullable=False, default=""),  # why it is paused, or why nothing moves
    Column("resumes_at", Moment),  # of a job that paused itself: when it tries again
    # kept in the transaction that settles an item, so that no question has to count a million rows
    Column("total", Integer, nullable=False),
    Column("done", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    Column("submitted_at", Moment, nullable=False),
    Column("finished_at", Moment),
    Column("deadline_at", Moment),
    Column("currency", String(3), nullable=False, server_default=text("''")),  # of what it costs
    # its share of what its deployment has cost while it ran, up to `costed_at`; null: it has not run since
    Column("cost_micros", BigInteger, nullable=False, server_default="0"),
    Column("unpriced", Boolean, nullable=False, server_default=false()),  # it also ran at a price nobody knows
    Column("costed_at", Moment),
    Column("budget_micros", BigInteger),  # it stops when it has cost so much
    Index(None, "deployment", "state"),
)

items = Table(
    "items",
    metadata,
    Column("job_id", ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("path", Text, nullable=False),  # relative to the source; file system bytes by surrogateescape, JSON-quoted
    Column("state", String(8), nullable=False),  # waiting | suspect | leased | done | failed
    Column("owner", String(80)),
    Column("attempt", Integer, nullable=False, default=0),  # grows with every lease: with the owner it fences
    Column("failures", Integer, nullable=False, default=0),  # those that were the item's own fault
    Column("leased_until", Moment),
    Column("not_before", Moment, nullable=False),
    Column("error", Text),
    Column("settled_at", Moment),
    # the next items to lease are the first entries of a range: no sorting, however long the queue
    Index(None, "job_id", "state", "not_before", "number"),
    Index("ix_items_settled", "job_id", "settled_at", sqlite_where=SETTLED, postgresql_where=SETTLED),
)

lease = Table(
    "lease",
    metadata,
    Column("name", String(20), primary_key=True),
    Column("owner", String(120), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("last_tick_at", Moment),
    Column("tick_errors", Integer, nullable=False, default=0),
    Column("last_error", Text),
    UniqueConstraint("generation"),
)
