# SPDX-License-Identifier: Apache-2.0
"""The marks of open connections: how much each has written that PostgreSQL acknowledged."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table; nothing else is touched, so that older boxes go on working."""
    op.create_table(
        "sync_connections",
        sa.Column("stream_id", sa.Uuid(), nullable=False),
        sa.Column("node_id", sa.Uuid(), nullable=False),
        # The process that writes it; what a dead process leaves is taken over by the next.
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        # Transactions that were committed, and the rows of forwarded tables they wrote.
        sa.Column("mark", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column(
            "updated_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
        ),
        sa.PrimaryKeyConstraint("stream_id", name="pk_sync_connections"),
        # A row is updated by each transaction: room on its page keeps the indexes untouched.
        postgresql_with={"fillfactor": 20},
    )
    op.create_index("ix_sync_connections_node_id", "sync_connections", ["node_id"])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("sync_connections")
