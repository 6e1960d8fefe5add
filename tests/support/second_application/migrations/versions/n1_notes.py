# SPDX-License-Identifier: Apache-2.0
"""The table of notes."""

import sqlalchemy as sa
from alembic import op

from edgepaas.app import models

revision = "n1"
down_revision = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "notes",
        sa.Column("id", models.Uuid(), nullable=False),
        sa.Column("text", models.Text(100), nullable=False),
        sa.Column("written_at", models.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_notes"),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("notes")
