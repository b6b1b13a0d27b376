"""Webhooks, and what they are to be told"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("events", sa.JSON, nullable=False),
        sa.Column("secret", sa.String(80), nullable=False),
        sa.Column("created_by", sa.String(140)),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("taken_at", sa.Float),
        sa.Column("off_at", sa.Float),
        sa.Column("off_reason", sa.Text),
        sa.Column("leased_until", sa.Float, nullable=False),
        sa.Column("lease_token", sa.String(32)),
    )
    op.create_index("webhooks_by_project", "webhooks", ["project", "id"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("webhook_id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("document", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("due_at", sa.Float),
        sa.Column("outcome", sa.String(16)),
        sa.Column("attempts", sa.JSON, nullable=False),
    )
    due = sa.text("due_at IS NOT NULL")
    op.create_index("deliveries_due", "deliveries", ["webhook_id", "due_at"], sqlite_where=due, postgresql_where=due)
    op.create_index("deliveries_by_webhook", "deliveries", ["webhook_id", "created_at", "id"])
    op.create_index("deliveries_by_time", "deliveries", ["created_at"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("deliveries")
    op.drop_table("webhooks")
