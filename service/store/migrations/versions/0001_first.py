"""Searches, events and architectures"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the first tables."""
    op.create_table(
        "searches",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("dataset", sa.Text, nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("cpus", sa.Integer, nullable=False),
        sa.Column("gpus", sa.Integer, nullable=False),
        sa.Column("supernet_multiply_adds", sa.BigInteger, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("phase", sa.String(16)),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("accuracy", sa.Float),
        sa.Column("error", sa.JSON),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("not_before", sa.Float, nullable=False),
        sa.Column("journal_cursor", sa.String(32), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("ended_at", sa.Float),
        sa.Column("lease_owner", sa.String(64)),
        sa.Column("lease_token", sa.String(32)),
        sa.Column("lease_expires_at", sa.Float),
    )
    op.create_index("searches_by_time", "searches", ["created_at", "id"])
    op.create_index("searches_by_status", "searches", ["status", "created_at", "id"])
    op.create_index("searches_by_project", "searches", ["project", "created_at", "id"])
    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("search_id", sa.String(32), sa.ForeignKey("searches.id"), nullable=False),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_search", "events", ["search_id", "seq"])
    op.create_table(
        "architectures",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("search_id", sa.String(32), sa.ForeignKey("searches.id"), nullable=False),
        sa.Column("budget", sa.BigInteger, nullable=False),
        sa.Column("result", sa.JSON, nullable=False),
    )
    op.create_index("ix_architectures_search_id", "architectures", ["search_id"])


def downgrade() -> None:
    """Drop them."""
    for table in ("architectures", "events", "searches"):
        op.drop_table(table)
