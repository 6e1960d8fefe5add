# SPDX-License-Identifier: Apache-2.0
"""History marks: by which a box sees whether PostgreSQL still has all that was mirrored from it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table; nothing else is touched, so that older boxes go on working."""
    op.create_table(
        "sync_histories",
        # A box begins another one where it finds that its mark is gone.
        sa.Column("history_id", sa.Uuid(), nullable=False),
        sa.Column("node_id", sa.Uuid(), nullable=False),
        # Moved by each pass of the mirror that changed something on the box.
        sa.Column("mark", sa.BigInteger(), nullable=False),
        sa.Column(
            "updated_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
        ),
        sa.PrimaryKeyConstraint("history_id", name="pk_sync_histories"),
    )
    op.create_index("ix_sync_histories_node_id", "sync_histories", ["node_id"])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("sync_histories")
