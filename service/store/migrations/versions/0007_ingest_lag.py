"""How far the database is behind the workers"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let a search say how long the newest lines of its journal were on the way."""
    op.add_column("searches", sa.Column("ingest_lag", sa.Float))


def downgrade() -> None:
    """Forget it."""
    op.drop_column("searches", "ingest_lag")
