"""Searches for which others of their project make room"""

import sqlalchemy as sa
from alembic import op

revision = "0020_0019"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what those who still run the version before need not know of: what they follow makes no room."""
    op.add_column("searches", sa.Column("preempts", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("searches", sa.Column("yields_to", sa.String(32)))
    queued = sa.text("preempts AND status = 'queued'")
    op.create_index("searches_that_preempt", "searches", ["id"], postgresql_where=queued, sqlite_where=queued)


def downgrade() -> None:
    """Forget them."""
    op.drop_index("searches_that_preempt", "searches")
    op.drop_column("searches", "yields_to")
    op.drop_column("searches", "preempts")
