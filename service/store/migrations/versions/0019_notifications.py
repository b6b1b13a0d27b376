"""Webhooks that are notifications, whose URLs are secrets"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what those who still run the version before need not know of: they try such a URL in vain, and it is tried
    again.
    """
    op.add_column("webhooks", sa.Column("shown", sa.Text))


def downgrade() -> None:
    """Forget it, and the notifications with it."""
    told = "SELECT id FROM webhooks WHERE shown IS NOT NULL"
    op.execute(f"DELETE FROM deliveries WHERE webhook_id IN ({told})")
    op.execute("DELETE FROM webhooks WHERE shown IS NOT NULL")
    op.drop_column("webhooks", "shown")
