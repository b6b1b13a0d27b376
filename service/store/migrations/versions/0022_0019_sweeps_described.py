"""A description of sweeps"""

import sqlalchemy as sa
from alembic import op

revision = "0022_0019"
down_revision = "0021_0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add what those who run the version before leave as it is."""
    op.add_column("sweeps", sa.Column("description", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    """Forget it."""
    op.drop_column("sweeps", "description")
