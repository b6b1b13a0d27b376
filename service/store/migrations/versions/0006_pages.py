"""Counters, and what metrics and lists are read by"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table and the indexes."""
    op.create_table(
        "counters",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_attempts_started_at", "attempts", ["started_at"])
    op.create_index("searches_by_kind_and_time", "searches", ["kind", "created_at", "id"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index("searches_by_kind_and_time", "searches")
    op.drop_index("ix_attempts_started_at", "attempts")
    op.drop_table("counters")
