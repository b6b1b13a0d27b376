"""The tables. Times are seconds since 1970, by the database's clock."""

from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Float, ForeignKey, Index, Integer, String, Text, false, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.functions import FunctionElement


class now(FunctionElement[float]):
    """The database's own time in seconds since 1970, the same clock for every dispatcher."""

    type = Float()
    inherit_cache = True


@compiles(now, "sqlite")
def _(element: Any, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _(element: Any, compiler: Any, **options: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


class Base(DeclarativeBase):
    """All tables."""


_unmeasured = text("measured_at IS NULL")
_due = text("due_at IS NOT NULL")
UNSTARTED = text("start_by IS NOT NULL AND NOT (paused AND status = 'queued')")
"""Whether a search counts among those that must start by a time; in a paused sweep it is not expected to."""
_to_stop = text("stop_by IS NOT NULL")
PREEMPTING = text("preempts AND status = 'queued'")
"""Whether a search waits for others to make room; a text, as the index of these alone is used for nothing else."""


class Search(Base):
    """One search: what was asked, where it stands, and who is working on it."""

    __tablename__ = "searches"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), default="search", server_default="search")
    """`search`, or `finals`: the networks that searches have found for the same budgets are retrained, and compete."""
    project: Mapped[str] = mapped_column(String(64))
    sweep_id: Mapped[str | None] = mapped_column(String(32))
    finals_id: Mapped[str | None] = mapped_column(String(32))
    """The finals that wait for this search, and retrain what it finds."""
    name: Mapped[str] = mapped_column(String(200))
    tags: Mapped[list[str]] = mapped_column(JSON, default=list, server_default="[]")
    description: Mapped[str] = mapped_column(Text, default="", server_default="")
    submitted_by: Mapped[str | None] = mapped_column(String(140))
    """The name of the token that it was submitted with."""
    dataset: Mapped[str] = mapped_column(Text)
    request: Mapped[dict[str, Any]] = mapped_column(JSON)
    """As the user gave it."""
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    """`SearchSpec.to_dict()` of what it means."""
    workers: Mapped[int] = mapped_column(Integer)
    """While it is queued the most that it wants, and from its launch on as many as it was granted."""
    min_workers: Mapped[int] = mapped_column(Integer)
    """The fewest that will do."""
    cpus: Mapped[int] = mapped_column(Integer)
    """Of all `workers` together, like `gpus`."""
    gpus: Mapped[int] = mapped_column(Integer)
    accelerators: Mapped[float] = mapped_column(Float)
    """What it counts as in shares and quotas."""
    accelerator_type: Mapped[str | None] = mapped_column(Text)
    """The accelerator that nodes must have, by Ray's name; None for any."""
    priority: Mapped[int] = mapped_column(Integer)
    rank: Mapped[float] = mapped_column(Float)
    """Its place in the project's queue, smallest first (`scheduling.rank`)."""
    preempts: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    """Whether searches of lower priority make room for it."""
    yields_to: Mapped[str | None] = mapped_column(String(32))
    """While it is with Ray: the search for which it is to make room."""
    supernet_multiply_adds: Mapped[int] = mapped_column(BigInteger)

    status: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    """Why it waits, or what it waits for."""
    phase: Mapped[str | None] = mapped_column(String(16))
    progress: Mapped[float] = mapped_column(Float, default=0.0)
    accuracy: Mapped[float | None] = mapped_column(Float)
    """The newest validation accuracy while it runs, the best test accuracy once it has succeeded."""
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    last_attempt: Mapped[int] = mapped_column(Integer)
    """The attempt after which it is given up."""
    not_before: Mapped[float] = mapped_column(Float, default=0.0)
    """After an attempt that failed: when the next may begin."""
    paused: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    """Whether its sweep is: then it is not launched, whatever its state."""
    awaiting: Mapped[bool] = mapped_column(Boolean, default=False, server_default=false())
    """Whether finals wait for the searches whose networks they retrain."""
    journal_cursor: Mapped[str] = mapped_column(String(32), default="")
    """The last chunk of the journal whose lines are among the events."""
    ingest_lag: Mapped[float | None] = mapped_column(Float)
    """Seconds from the oldest line of that chunk until it was among the events."""
    heard_at: Mapped[float | None] = mapped_column(Float)
    """When that was."""

    created_at: Mapped[float] = mapped_column(Float)
    started_at: Mapped[float | None] = mapped_column(Float)
    ended_at: Mapped[float | None] = mapped_column(Float)

    max_wait: Mapped[float | None] = mapped_column(Float)
    """Seconds that it may wait until its workers start, since its user has queued it."""
    max_run: Mapped[float | None] = mapped_column(Float)
    """Seconds that it may run, in all attempts since its user has queued it."""
    run_left: Mapped[float | None] = mapped_column(Float)
    """How many of them were left when it ran last."""
    start_by: Mapped[float | None] = mapped_column(Float)
    """Until its workers have started: by when they must."""
    stop_by: Mapped[float | None] = mapped_column(Float)
    """While it runs: by when it must have ended."""

    stored: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Bytes in its folder, when that was last measured."""
    measured_at: Mapped[float | None] = mapped_column(Float)
    """When that was; None from an attempt's end until it is measured again."""
    pruned: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """The parts that were removed of it since it ended (`retention.Part`), or will be before it is measured again."""

    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_token: Mapped[str | None] = mapped_column(String(32))
    lease_beat: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """How often the lease was renewed. It has run out for whoever has seen no other number for `LEASE_SECONDS`."""
    lease_expires_at: Mapped[float | None] = mapped_column(Float)
    """By the database's clock, for metrics alone: a clock can be changed."""

    __table_args__ = (
        Index("searches_by_time", "created_at", "id"),
        Index("searches_by_accuracy", "accuracy", "id"),
        Index("searches_by_status", "status", "created_at", "id"),
        Index("searches_by_project", "project", "created_at", "id"),
        Index("searches_by_project_and_status", "project", "status", "created_at", "id"),
        Index("searches_in_queue", "status", "project", "rank", "id"),
        Index("searches_that_preempt", "id", postgresql_where=PREEMPTING, sqlite_where=PREEMPTING),
        Index("searches_of_sweep", "sweep_id", "status"),
        Index("searches_of_sweep_in_order", "sweep_id", "rank", "id"),
        Index("searches_of_finals", "finals_id", "status"),
        Index("searches_by_kind", "kind", "status", "not_before"),
        Index("searches_by_kind_and_time", "kind", "created_at", "id"),
        Index("searches_by_end", "pruned", "ended_at"),
        Index("searches_unmeasured", "id", sqlite_where=_unmeasured, postgresql_where=_unmeasured),
        Index("searches_to_start", "start_by", sqlite_where=UNSTARTED, postgresql_where=UNSTARTED),
        Index("searches_to_stop", "stop_by", sqlite_where=_to_stop, postgresql_where=_to_stop),
    )


class Sweep(Base):
    """Searches that were asked for together."""

    __tablename__ = "sweeps"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text, default="", server_default="")
    submitted_by: Mapped[str | None] = mapped_column(String(140))
    request: Mapped[dict[str, Any]] = mapped_column(JSON)
    """As the user gave it."""
    budgets: Mapped[list[int]] = mapped_column(JSON)
    paused: Mapped[bool] = mapped_column(Boolean, default=False)
    created_at: Mapped[float] = mapped_column(Float)

    __table_args__ = (
        Index("sweeps_by_time", "created_at", "id"),
        Index("sweeps_by_project", "project", "created_at", "id"),
    )


class Event(Base):
    """Something that happened to a search; `seq` numbers all events in the order of their insertion."""

    __tablename__ = "events"

    seq: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id"))
    time: Mapped[float] = mapped_column(Float)
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]] = mapped_column(JSON)

    __table_args__ = (
        Index("events_by_search", "search_id", "seq"),
        Index("events_by_kind", "search_id", "kind", "seq"),
        {"sqlite_autoincrement": True},
    )


class ArchitectureRow(Base):
    """A network that a search returned for one of its budgets."""

    __tablename__ = "architectures"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id"), index=True)
    budget: Mapped[int] = mapped_column(BigInteger)
    result: Mapped[dict[str, Any]] = mapped_column(JSON)
    """What `result.json` says of it."""


class Attempt(Base):
    """One launch of a search: the search held its resources from `started_at` to `ended_at`."""

    __tablename__ = "attempts"

    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))
    """The dispatcher that launched it."""
    started_at: Mapped[float] = mapped_column(Float, index=True)
    ended_at: Mapped[float | None] = mapped_column(Float, index=True)
    outcome: Mapped[str | None] = mapped_column(String(16))
    """The state that the search went to when it ended."""
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON)


class Deletion(Base):
    """A search that was deleted and whose folder is still to be removed."""

    __tablename__ = "deletions"

    search_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    deleted_at: Mapped[float] = mapped_column(Float)

    __table_args__ = (Index("deletions_by_time", "deleted_at"),)


class Project(Base):
    """A project's weight and quotas, and what it has used.

    `used` is in accelerator-seconds of ended attempts, decayed to `used_at`. It is a meter and not a count of what is
    held: that is always asked of the searches themselves.
    """

    __tablename__ = "projects"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    weight: Mapped[float] = mapped_column(Float, default=1.0)
    max_running: Mapped[int | None] = mapped_column(Integer)
    max_accelerators: Mapped[float | None] = mapped_column(Float)
    max_queued: Mapped[int | None] = mapped_column(Integer)
    stored: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Bytes that its searches hold in the storage: the sum of theirs, kept with them."""
    max_stored: Mapped[int | None] = mapped_column(BigInteger)
    used: Mapped[float] = mapped_column(Float, default=0.0)
    used_at: Mapped[float] = mapped_column(Float, default=0.0)


class IdempotencyKey(Base):
    """A request that was made under a key, and the answer that it got."""

    __tablename__ = "idempotency_keys"

    scope: Mapped[str] = mapped_column(String(64), primary_key=True)
    """The project of the caller's token; empty where there are no tokens."""
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request: Mapped[str] = mapped_column(Text)
    """Method and path."""
    fingerprint: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the request."""
    created_at: Mapped[float] = mapped_column(Float, index=True)
    status: Mapped[int | None] = mapped_column(Integer)
    headers: Mapped[dict[str, str] | None] = mapped_column(JSON)
    body: Mapped[Any | None] = mapped_column(JSON)


class Token(Base):
    """A token that the service has made, and what it opens (`service.domain.grants.Grant`)."""

    __tablename__ = "tokens"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 of what is sent."""
    project: Mapped[str] = mapped_column(String(64))
    role: Mapped[str] = mapped_column(String(16))
    created_by: Mapped[str | None] = mapped_column(String(140))
    """The name of the token that it was made with."""
    created_at: Mapped[float] = mapped_column(Float)
    expires_at: Mapped[float | None] = mapped_column(Float)
    last_used_at: Mapped[float | None] = mapped_column(Float)
    """To about a minute."""

    __table_args__ = (
        Index("tokens_by_digest", "digest", unique=True),
        Index("tokens_by_project", "project", "name"),
    )


class AuditEntry(Base):
    """Something that somebody did (`service.store.audit`)."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    time: Mapped[float] = mapped_column(Float)
    by: Mapped[str | None] = mapped_column(String(140))
    """The name of the token that it was done with."""
    action: Mapped[str] = mapped_column(String(32))
    project: Mapped[str | None] = mapped_column(String(64))
    """Whose admins may read of it, besides operators."""
    about: Mapped[str | None] = mapped_column(String(140))
    """Such as search/ID."""
    data: Mapped[dict[str, Any]] = mapped_column(JSON)

    __table_args__ = (
        Index("audit_by_time", "time", "id"),
        Index("audit_by_project", "project", "time", "id"),
        Index("audit_by_by", "by", "time", "id"),
        Index("audit_by_action", "action", "time", "id"),
        Index("audit_by_about", "about", "time", "id"),
        {"sqlite_autoincrement": True},
    )


class Webhook(Base):
    """A URL that is told what becomes of a project's searches and sweeps."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    url: Mapped[str] = mapped_column(Text)
    """Of a notification it is a secret."""
    shown: Mapped[str | None] = mapped_column(Text)
    """A notification's URL without what is secret in it; None for a webhook."""
    events: Mapped[list[str]] = mapped_column(JSON)
    """Of `receivers.Event`."""
    secret: Mapped[str] = mapped_column(String(80))
    """What messages are signed with: a hash would not do. Empty for a notification."""
    created_by: Mapped[str | None] = mapped_column(String(140))
    created_at: Mapped[float] = mapped_column(Float)
    taken_at: Mapped[float | None] = mapped_column(Float)
    """When it last took a message."""
    off_at: Mapped[float | None] = mapped_column(Float)
    """Since when it is switched off, if it is."""
    off_reason: Mapped[str | None] = mapped_column(Text)
    leased_until: Mapped[float] = mapped_column(Float, default=0.0)
    """Until when nobody else sends to it."""
    lease_token: Mapped[str | None] = mapped_column(String(32))

    __table_args__ = (Index("webhooks_by_project", "project", "id"),)


class Delivery(Base):
    """A message to a webhook.

    No foreign key: a webhook that is deleted at the same moment must not keep a search from changing its state.
    """

    __tablename__ = "deliveries"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    webhook_id: Mapped[str] = mapped_column(String(32))
    kind: Mapped[str] = mapped_column(String(32))
    """Such as search.succeeded."""
    document: Mapped[dict[str, Any]] = mapped_column(JSON)
    """What is sent; its links are paths."""
    created_at: Mapped[float] = mapped_column(Float)
    due_at: Mapped[float | None] = mapped_column(Float)
    """When it is to be sent; None where it has an outcome."""
    outcome: Mapped[str | None] = mapped_column(String(16))
    """`taken` or `given_up`."""
    attempts: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    """Of each time that it was sent: `time`, the `status` of the answer, `seconds` and the `reason` for which it was
    not taken."""

    __table_args__ = (
        Index("deliveries_due", "webhook_id", "due_at", sqlite_where=_due, postgresql_where=_due),
        Index("deliveries_by_webhook", "webhook_id", "created_at", "id"),
        Index("deliveries_by_time", "created_at"),
    )


class Login(Base):
    """A browser's session, or a code that begins one."""

    __tablename__ = "logins"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    """SHA-256 of what the browser has."""
    token: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the token that it was exchanged for, or of who has signed on and what that opens."""
    code: Mapped[bool] = mapped_column(Boolean)
    project: Mapped[str | None] = mapped_column(String(64))
    """With `role` and `name` what is open to somebody who has signed on; None for sessions of tokens."""
    role: Mapped[str | None] = mapped_column(String(16))
    name: Mapped[str | None] = mapped_column(String(140))
    expires_at: Mapped[float] = mapped_column(Float, index=True)


class ClusterRow(Base):
    """What a dispatcher last saw of the cluster; there is one row."""

    __tablename__ = "cluster"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    nodes: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    error: Mapped[str | None] = mapped_column(Text)
    """Why Ray could not be asked, when it was last tried."""
    seen_at: Mapped[float] = mapped_column(Float)
    """When a dispatcher last reported."""
    reporter: Mapped[str] = mapped_column(String(64))


class Counter(Base):
    """How often something has happened that no other table tells."""

    __tablename__ = "counters"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger)
