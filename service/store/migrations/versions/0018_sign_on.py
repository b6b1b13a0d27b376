"""Sessions of people who have signed on, without a token"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

COLUMNS = {"project": 64, "role": 16, "name": 140}


def upgrade() -> None:
    """Add what those who still run the version before need not know of: to them such a session is none."""
    for column, length in COLUMNS.items():
        op.add_column("logins", sa.Column(column, sa.String(length)))


def downgrade() -> None:
    """Forget it, and the sessions with it."""
    op.execute("DELETE FROM logins WHERE name IS NOT NULL")
    for column in reversed(COLUMNS):
        op.drop_column("logins", column)
