"""What searches hold in the storage, and how much a project may"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what those who still run the version before need not know of; dispatchers measure what is there."""
    op.add_column("searches", sa.Column("stored", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("searches", sa.Column("measured_at", sa.Float))
    op.add_column("projects", sa.Column("stored", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("projects", sa.Column("max_stored", sa.BigInteger))
    unmeasured = sa.text("measured_at IS NULL")
    op.create_index("searches_unmeasured", "searches", ["id"], sqlite_where=unmeasured, postgresql_where=unmeasured)


def downgrade() -> None:
    """Forget it."""
    op.drop_index("searches_unmeasured", "searches")
    for table, column in (
        ("projects", "max_stored"),
        ("projects", "stored"),
        ("searches", "measured_at"),
        ("searches", "stored"),
    ):
        op.drop_column(table, column)
