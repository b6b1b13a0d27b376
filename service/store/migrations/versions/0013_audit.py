"""Who did what, and when"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("by", sa.String(140)),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("project", sa.String(64)),
        sa.Column("about", sa.String(140)),
        sa.Column("data", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("audit_by_time", "audit", ["time", "id"])
    for column in ("project", "by", "action", "about"):
        op.create_index(f"audit_by_{column}", "audit", [column, "time", "id"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("audit")
