"""Finals: retraining the networks that several searches of a sweep have found"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Tell searches from finals; all that are there are searches, and retrain what they find themselves."""
    op.add_column("searches", sa.Column("kind", sa.String(16), nullable=False, server_default="search"))
    op.add_column("searches", sa.Column("finals_id", sa.String(32)))
    op.create_index("searches_of_finals", "searches", ["finals_id", "status"])
    op.create_index("searches_by_kind", "searches", ["kind", "status", "not_before"])


def downgrade() -> None:
    """Forget the difference; finals go, for an older Yoso would take them for searches."""
    of_finals = "search_id IN (SELECT id FROM searches WHERE kind = 'finals')"
    for table in ("events", "attempts", "architectures"):
        op.execute(f"DELETE FROM {table} WHERE {of_finals}")
    op.execute("DELETE FROM searches WHERE kind = 'finals'")
    op.drop_index("searches_by_kind", "searches")
    op.drop_index("searches_of_finals", "searches")
    op.drop_column("searches", "finals_id")
    op.drop_column("searches", "kind")
