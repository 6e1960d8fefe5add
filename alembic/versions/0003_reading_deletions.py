# SPDX-License-Identifier: Apache-2.0
"""Readings are deleted by an operator: what was deleted, by whom and why."""

import sqlalchemy as sa
from alembic import op

from edgepaas.app import models

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_FINITE = "{0} BETWEEN -1.7976931348623157e308 AND 1.7976931348623157e308"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "reading_deletions",
        sa.Column("id", models.Uuid(), nullable=False),
        sa.Column("reading_id", models.Uuid(), nullable=False),
        sa.Column("device", models.Text(200), nullable=False),
        sa.Column("metric", models.Text(200), nullable=False),
        sa.Column("value", models.Number(), nullable=False),
        sa.Column("unit", models.Text(50), nullable=True),
        sa.Column("recorded_at", models.UtcDateTime(), nullable=False),
        sa.Column("received_at", models.UtcDateTime(), nullable=False),
        sa.Column("deleted_at", models.UtcDateTime(), nullable=False),
        sa.Column("deleted_by", models.Text(200), nullable=False),
        sa.Column("token_id", models.Text(100), nullable=False),
        sa.Column("node", models.Text(36), nullable=False),
        sa.Column("reason", models.Text(500), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_reading_deletions"),
        sa.CheckConstraint(_FINITE.format("value"), name=op.f("ck_reading_deletions_value_finite")),
    )
    op.create_index("ix_reading_deletions_deleted_at_id", "reading_deletions", ["deleted_at", "id"])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("reading_deletions")
