"""Sweeps, and the searches that belong to one"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table; no search that is there belongs to a sweep."""
    op.create_table(
        "sweeps",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("budgets", sa.JSON, nullable=False),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_index("sweeps_by_time", "sweeps", ["created_at", "id"])
    op.create_index("sweeps_by_project", "sweeps", ["project", "created_at", "id"])
    # Without a foreign key, which SQLite could not drop again.
    op.add_column("searches", sa.Column("sweep_id", sa.String(32)))
    op.create_index("searches_of_sweep", "searches", ["sweep_id", "status"])
    op.create_index("searches_of_sweep_in_order", "searches", ["sweep_id", "rank", "id"])


def downgrade() -> None:
    """Drop it; the searches stay."""
    op.drop_index("searches_of_sweep_in_order", "searches")
    op.drop_index("searches_of_sweep", "searches")
    op.drop_column("searches", "sweep_id")
    op.drop_table("sweeps")
