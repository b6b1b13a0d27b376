"""The tables. Times are seconds since 1970, by the database's clock."""

from typing import Any

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Index, Integer, String, Text
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


class Search(Base):
    """One search: what was asked, where it stands, and who is working on it."""

    __tablename__ = "searches"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(200))
    dataset: Mapped[str] = mapped_column(Text)
    request: Mapped[dict[str, Any]] = mapped_column(JSON)
    """As the user gave it."""
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    """`SearchSpec.to_dict()` of what it means."""
    cpus: Mapped[int] = mapped_column(Integer)
    gpus: Mapped[int] = mapped_column(Integer)
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
    not_before: Mapped[float] = mapped_column(Float, default=0.0)
    journal_cursor: Mapped[str] = mapped_column(String(32), default="")
    """The last chunk of the journal whose lines are among the events."""

    created_at: Mapped[float] = mapped_column(Float)
    started_at: Mapped[float | None] = mapped_column(Float)
    ended_at: Mapped[float | None] = mapped_column(Float)

    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_token: Mapped[str | None] = mapped_column(String(32))
    lease_expires_at: Mapped[float | None] = mapped_column(Float)

    __table_args__ = (
        Index("searches_by_time", "created_at", "id"),
        Index("searches_by_status", "status", "created_at", "id"),
        Index("searches_by_project", "project", "created_at", "id"),
    )


class Event(Base):
    """Something that happened to a search; `seq` numbers all events in the order of their insertion."""

    __tablename__ = "events"

    seq: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id"))
    time: Mapped[float] = mapped_column(Float)
    kind: Mapped[str] = mapped_column(String(32))
    data: Mapped[dict[str, Any]] = mapped_column(JSON)

    __table_args__ = (Index("events_by_search", "search_id", "seq"), {"sqlite_autoincrement": True})


class ArchitectureRow(Base):
    """A network that a search returned for one of its budgets."""

    __tablename__ = "architectures"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id"), index=True)
    budget: Mapped[int] = mapped_column(BigInteger)
    result: Mapped[dict[str, Any]] = mapped_column(JSON)
    """What `result.json` says of it."""
