"""Sessions of browsers, and who submitted a search or a sweep"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table and the columns."""
    op.create_table(
        "logins",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("token", sa.String(64), nullable=False),
        sa.Column("code", sa.Boolean, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False, index=True),
    )
    for table in ("searches", "sweeps"):
        op.add_column(table, sa.Column("submitted_by", sa.String(140)))


def downgrade() -> None:
    """Drop them."""
    for table in ("searches", "sweeps"):
        op.drop_column(table, "submitted_by")
    op.drop_table("logins")
