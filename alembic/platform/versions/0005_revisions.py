# SPDX-License-Identifier: Apache-2.0
"""What each revision of the application renamed, and which layouts each box still writes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0002"
branch_labels = None
depends_on = None

_NOW = sa.func.now()


def upgrade() -> None:
    """Create the tables; nothing else is touched, so that older boxes go on working."""
    op.create_table(
        "edgepaas_revisions",
        # In which order they were applied.
        sa.Column("position", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("chain", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        # Names before and after it, as JSON; none for a revision that nobody observed.
        sa.Column("changes", sa.Text()),
        sa.Column(
            "recorded_at", postgresql.TIMESTAMP(timezone=True), nullable=False, server_default=_NOW
        ),
        sa.PrimaryKeyConstraint("position", name="pk_edgepaas_revisions"),
        sa.UniqueConstraint("chain", "revision", name="uq_edgepaas_revisions_chain"),
    )
    op.create_table(
        "sync_layouts",
        sa.Column("node_id", sa.Uuid(), nullable=False),
        sa.Column("tbl", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        # The types of its columns by name, as the box knew them.
        sa.Column("columns", postgresql.JSONB(), nullable=False),
        # So many rows of it waited; none of the layout that the box writes now.
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("is_current", sa.Boolean(), nullable=False),
        sa.Column(
            "updated_at", postgresql.TIMESTAMP(timezone=True), nullable=False, server_default=_NOW
        ),
        sa.PrimaryKeyConstraint("node_id", "tbl", "revision", name="pk_sync_layouts"),
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("sync_layouts")
    op.drop_table("edgepaas_revisions")
