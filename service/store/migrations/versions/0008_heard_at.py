"""When a search was last heard of"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let a search say when lines of its journal last came in."""
    op.add_column("searches", sa.Column("heard_at", sa.Float))


def downgrade() -> None:
    """Forget it."""
    op.drop_column("searches", "heard_at")
