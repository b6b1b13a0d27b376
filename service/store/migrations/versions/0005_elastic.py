"""Elastic numbers of workers, and types of accelerators"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let a search say how few workers will do, and what its nodes must have; all that are there take all or none."""
    op.add_column("searches", sa.Column("min_workers", sa.Integer, nullable=False, server_default="1"))
    op.add_column("searches", sa.Column("accelerator_type", sa.Text))
    op.execute("UPDATE searches SET min_workers = workers")


def downgrade() -> None:
    """Forget both; what is queued takes all or none, on any node."""
    op.drop_column("searches", "accelerator_type")
    op.drop_column("searches", "min_workers")
