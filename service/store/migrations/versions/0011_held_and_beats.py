"""Held states as columns, leases that are counted, and events by their kind"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

PAUSED, AWAITING = 1e12, 2e12
"""The times by which `not_before` said so."""


def upgrade() -> None:
    """Add what those who still run the version before need not know of."""
    op.add_column("searches", sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("searches", sa.Column("awaiting", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("searches", sa.Column("lease_beat", sa.Integer, nullable=False, server_default="0"))
    op.create_index("events_by_kind", "events", ["search_id", "kind", "seq"])
    searches, sweeps = _tables()
    of_paused = sa.select(sweeps.c.id).where(sweeps.c.paused)
    change = sa.update(searches)
    op.execute(change.where(searches.c.sweep_id.in_(of_paused)).values(paused=True))
    op.execute(change.where(searches.c.not_before >= AWAITING).values(awaiting=True))
    op.execute(change.where(searches.c.not_before >= PAUSED).values(not_before=0.0))


def downgrade() -> None:
    """Say it by the times again."""
    searches, _ = _tables()
    queued = sa.update(searches).where(searches.c.status == "queued")
    op.execute(queued.where(searches.c.paused).values(not_before=PAUSED))
    op.execute(queued.where(searches.c.awaiting).values(not_before=AWAITING))
    op.drop_index("events_by_kind", "events")
    for column in ("lease_beat", "awaiting", "paused"):
        op.drop_column("searches", column)


def _tables() -> tuple[sa.TableClause, sa.TableClause]:
    columns = [sa.column("sweep_id"), sa.column("status"), sa.column("not_before", sa.Float)]
    columns += [sa.column(name, sa.Boolean) for name in ("paused", "awaiting")]
    return sa.table("searches", *columns), sa.table("sweeps", sa.column("id"), sa.column("paused", sa.Boolean))
