"""How long searches may wait and run, and when that is over"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

COLUMNS = ("max_wait", "max_run", "run_left", "start_by", "stop_by")


def upgrade() -> None:
    """Add what those who still run the version before need not know of."""
    for column in COLUMNS:
        op.add_column("searches", sa.Column(column, sa.Float))
    waiting = sa.text("start_by IS NOT NULL AND NOT (paused AND status = 'queued')")
    op.create_index("searches_to_start", "searches", ["start_by"], sqlite_where=waiting, postgresql_where=waiting)
    running = sa.text("stop_by IS NOT NULL")
    op.create_index("searches_to_stop", "searches", ["stop_by"], sqlite_where=running, postgresql_where=running)


def downgrade() -> None:
    """Forget it."""
    op.drop_index("searches_to_stop", "searches")
    op.drop_index("searches_to_start", "searches")
    for column in reversed(COLUMNS):
        op.drop_column("searches", column)
