"""Searches that were deleted, whose folders are still to be removed"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make room for them."""
    op.create_table(
        "deletions",
        sa.Column("search_id", sa.String(32), primary_key=True),
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("deleted_at", sa.Float, nullable=False),
    )
    op.create_index("deletions_by_time", "deletions", ["deleted_at"])


def downgrade() -> None:
    """Forget them: their folders stay."""
    op.drop_table("deletions")
