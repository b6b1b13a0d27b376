"""What was removed of searches that stay"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what those who still run the version before need not know of."""
    op.add_column("searches", sa.Column("pruned", sa.Integer, nullable=False, server_default="0"))
    op.create_index("searches_by_end", "searches", ["pruned", "ended_at"])


def downgrade() -> None:
    """Forget it."""
    op.drop_index("searches_by_end", "searches")
    op.drop_column("searches", "pruned")
