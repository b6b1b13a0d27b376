"""Tags and a description of searches, and their order by accuracy"""

import sqlalchemy as sa
from alembic import op

revision = "0021_0019"
down_revision = "0020_0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what those who run the version before leave as it is."""
    op.add_column("searches", sa.Column("tags", sa.JSON, nullable=False, server_default="[]"))
    op.add_column("searches", sa.Column("description", sa.Text, nullable=False, server_default=""))
    op.create_index("searches_by_accuracy", "searches", ["accuracy", "id"])


def downgrade() -> None:
    """Forget them."""
    op.drop_index("searches_by_accuracy", "searches")
    op.drop_column("searches", "description")
    op.drop_column("searches", "tags")
