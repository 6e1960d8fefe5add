# SPDX-License-Identifier: Apache-2.0
"""Telemetry: devices, rules and readings."""

import sqlalchemy as sa
from alembic import op

from edgepaas.app import models

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_FINITE = "{0} BETWEEN -1.7976931348623157e308 AND 1.7976931348623157e308"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "devices",
        sa.Column("id", models.Uuid(), nullable=False),
        sa.Column("name", models.Text(200), nullable=False),
        sa.Column("description", models.Text(2000), nullable=True),
        sa.Column("labels", models.Json(), nullable=False),
        sa.Column("created_at", models.UtcDateTime(), nullable=False),
        sa.Column("updated_at", models.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_devices"),
        sa.UniqueConstraint("name", name="uq_devices_name"),
    )
    op.create_table(
        "rules",
        sa.Column("id", models.Uuid(), nullable=False),
        sa.Column("name", models.Text(200), nullable=False),
        sa.Column("device", models.Text(200), nullable=True),
        sa.Column("metric", models.Text(200), nullable=False),
        sa.Column("condition", models.Text(20), nullable=False),
        sa.Column("threshold", models.Number(), nullable=True),
        sa.Column("for_seconds", sa.Integer(), nullable=False),
        sa.Column("severity", models.Text(20), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", models.UtcDateTime(), nullable=False),
        sa.Column("updated_at", models.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rules"),
        sa.CheckConstraint(
            "condition IN ('above', 'below', 'absent', 'rate')", name=op.f("ck_rules_condition")
        ),
        sa.CheckConstraint(
            "severity IN ('info', 'warning', 'critical')", name=op.f("ck_rules_severity")
        ),
        sa.CheckConstraint("for_seconds >= 0", name=op.f("ck_rules_for_seconds")),
        sa.CheckConstraint(_FINITE.format("threshold"), name=op.f("ck_rules_threshold_finite")),
    )
    op.create_table(
        "readings",
        sa.Column("id", models.Uuid(), nullable=False),
        sa.Column("device_id", models.Uuid(), nullable=False),
        sa.Column("device", models.Text(200), nullable=False),
        sa.Column("metric", models.Text(200), nullable=False),
        sa.Column("value", models.Number(), nullable=False),
        sa.Column("unit", models.Text(50), nullable=True),
        sa.Column("recorded_at", models.UtcDateTime(), nullable=False),
        sa.Column("received_at", models.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_readings"),
        sa.CheckConstraint(_FINITE.format("value"), name=op.f("ck_readings_value_finite")),
    )
    op.create_index(
        "ix_readings_device_metric_recorded_at_id",
        "readings",
        ["device", "metric", "recorded_at", "id"],
    )
    op.create_index("ix_readings_recorded_at_id", "readings", ["recorded_at", "id"])


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("readings")
    op.drop_table("rules")
    op.drop_table("devices")
