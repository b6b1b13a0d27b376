"""Projects, attempts, idempotency keys, the cluster, and places in the queue"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NEW_COLUMNS: dict[str, tuple[Any, str]] = {
    "workers": (sa.Integer, "1"),
    "accelerators": (sa.Float, "0"),
    "priority": (sa.Integer, "0"),
    "rank": (sa.Float, "0"),
    "last_attempt": (sa.Integer, "3"),
}
"""Type and value for the searches that are there, by name."""


def upgrade() -> None:
    """Create the tables, and give every search its place in the queue."""
    for name, (kind, value) in NEW_COLUMNS.items():
        op.add_column("searches", sa.Column(name, kind, nullable=False, server_default=value))
    number = "json_extract(spec, '$.workers')" if op.get_bind().dialect.name == "sqlite" else "(spec->>'workers')::int"
    op.execute(
        f"UPDATE searches SET rank = created_at, workers = {number}, "
        "accelerators = CASE WHEN gpus > cpus / 8.0 THEN gpus ELSE cpus / 8.0 END"
    )
    op.create_index("searches_by_project_and_status", "searches", ["project", "status", "created_at", "id"])
    op.create_index("searches_in_queue", "searches", ["status", "project", "rank", "id"])
    op.create_table(
        "attempts",
        sa.Column("search_id", sa.String(32), sa.ForeignKey("searches.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("outcome", sa.String(16)),
        sa.Column("error", sa.JSON),
    )
    op.create_index("ix_attempts_ended_at", "attempts", ["ended_at"])
    op.create_table(
        "projects",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("weight", sa.Float, nullable=False),
        sa.Column("max_running", sa.Integer),
        sa.Column("max_accelerators", sa.Float),
        sa.Column("max_queued", sa.Integer),
        sa.Column("used", sa.Float, nullable=False),
        sa.Column("used_at", sa.Float, nullable=False),
    )
    op.execute("INSERT INTO projects (name, weight, used, used_at) SELECT DISTINCT project, 1, 0, 0 FROM searches")
    # What is with Ray at this moment has an attempt that goes on.
    op.execute(
        "INSERT INTO attempts (search_id, number, owner, started_at) "
        "SELECT id, attempt, coalesce(lease_owner, ''), coalesce(started_at, created_at) FROM searches "
        "WHERE status IN ('launching', 'waiting', 'running', 'finishing', 'cancelling')"
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("scope", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("headers", sa.JSON),
        sa.Column("body", sa.JSON),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.create_table(
        "cluster",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("nodes", sa.JSON, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("seen_at", sa.Float, nullable=False),
        sa.Column("reporter", sa.String(64), nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("cluster", "idempotency_keys", "projects", "attempts"):
        op.drop_table(table)
    for index in ("searches_in_queue", "searches_by_project_and_status"):
        op.drop_index(index, "searches")
    # Not by copying the table, which SQLite could not drop while events refer to it.
    for name in NEW_COLUMNS:
        op.drop_column("searches", name)
