# SPDX-License-Identifier: Apache-2.0
"""Readings say whose token wrote them and which box took them; changes are recorded."""

import sqlalchemy as sa
from alembic import op

from edgepaas.app import models

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, which older rows do not fill, and the table."""
    op.add_column("readings", sa.Column("written_by", models.Text(200), nullable=True))
    op.add_column("readings", sa.Column("node", models.Uuid(), nullable=True))
    op.add_column("reading_deletions", sa.Column("written_by", models.Text(200), nullable=True))
    op.add_column("reading_deletions", sa.Column("reading_node", models.Uuid(), nullable=True))
    op.create_table(
        "changes",
        sa.Column("id", models.Uuid(), nullable=False),
        sa.Column("kind", models.Text(20), nullable=False),
        sa.Column("row_id", models.Uuid(), nullable=False),
        sa.Column("name", models.Text(200), nullable=False),
        sa.Column("action", models.Text(20), nullable=False),
        sa.Column("old", models.Json(), nullable=True),
        sa.Column("new", models.Json(), nullable=True),
        sa.Column("changed_at", models.UtcDateTime(), nullable=False),
        sa.Column("changed_by", models.Text(200), nullable=False),
        sa.Column("token_id", models.Text(100), nullable=False),
        sa.Column("node", models.Uuid(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_changes"),
        sa.CheckConstraint("kind IN ('device', 'rule')", name=op.f("ck_changes_kind")),
        sa.CheckConstraint(
            "action IN ('create', 'change', 'delete')", name=op.f("ck_changes_action")
        ),
    )
    op.create_index("ix_changes_changed_at_id", "changes", ["changed_at", "id"])


def downgrade() -> None:
    """Drop them; who wrote what is gone with them."""
    op.drop_table("changes")
    op.drop_column("reading_deletions", "reading_node")
    op.drop_column("reading_deletions", "written_by")
    op.drop_column("readings", "node")
    op.drop_column("readings", "written_by")
