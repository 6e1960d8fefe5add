# SPDX-License-Identifier: Apache-2.0
"""Rules are evaluated: what waits for it."""

import sqlalchemy as sa
from alembic import op

from edgepaas.app import models

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "rule_feed",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("batch", models.Uuid(), nullable=False),
        sa.Column("node", models.Text(36), nullable=False),
        sa.Column("readings", models.Text(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_rule_feed"),
    )
    op.create_index("ix_rule_feed_node_seq", "rule_feed", ["node", "seq"])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("rule_feed")
