# SPDX-License-Identifier: Apache-2.0
"""What the hub keeps of every box: streams and their marks, nodes, what needs a person."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = postgresql.TIMESTAMP(timezone=True)
_JSON = postgresql.JSONB(none_as_null=True)


def _required(name: str, kind: sa.types.TypeEngine, **options: object) -> sa.Column:
    return sa.Column(name, kind, nullable=False, **options)


def _count(name: str) -> sa.Column:
    return _required(name, sa.BigInteger(), server_default="0")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "sync_streams",
        _required("stream_id", sa.Uuid()),
        _required("node_id", sa.Uuid()),
        _required("base", sa.BigInteger()),
        _required("mark", sa.BigInteger()),
        sa.Column("batch", sa.Uuid()),
        _count("rows"),
        _count("dead"),
        _count("conflicts"),
        _count("shed"),
        # What the batch of that id added: a box whose COMMIT was not answered asks for it.
        _count("batch_rows"),
        _count("batch_dead"),
        _count("batch_conflicts"),
        _count("batch_shed"),
        sa.Column("forked_from", sa.Uuid()),
        _required("created_at", _TIME, server_default=sa.func.now()),
        _required("updated_at", _TIME, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("stream_id", name="pk_sync_streams"),
    )
    op.create_index("ix_sync_streams_node_id", "sync_streams", ["node_id"])
    op.create_table(
        "nodes",
        _required("node_id", sa.Uuid()),
        _required("name", sa.Text()),
        _required("version", sa.Text()),
        _required("build", sa.Text()),
        _required("state", sa.Text()),
        _required("rows_waiting", sa.BigInteger()),
        sa.Column("oldest_waiting", _TIME),
        sa.Column("clock_offset", sa.Double()),
        _required("boot_id", sa.Text()),
        _required("first_seen", _TIME),
        _required("last_seen", _TIME),
        sa.PrimaryKeyConstraint("node_id", name="pk_nodes"),
    )
    _create_letters()
    op.create_table(
        "sync_tombstones",
        _required("tbl", sa.Text()),
        _required("row_key", sa.Text()),
        _required("node_id", sa.Uuid()),
        _required("stream_id", sa.Uuid()),
        _required("seq", sa.BigInteger()),
        _required("deleted_at", _TIME, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("tbl", "row_key", name="pk_sync_tombstones"),
    )
    op.create_table(
        "sync_gaps",
        _required("stream_id", sa.Uuid()),
        _required("seq", sa.BigInteger()),
        _required("node_id", sa.Uuid()),
        _required("tbl", sa.Text()),
        _required("rows", sa.BigInteger()),
        _required("ranges", _JSON),
        _required("reason", sa.Text()),
        _required("first_at", sa.Text()),
        _required("last_at", sa.Text()),
        sa.PrimaryKeyConstraint("stream_id", "seq", name="pk_sync_gaps"),
    )


def _create_letters() -> None:
    """Create what waits for a person: rows that were not taken, values that were overwritten."""
    op.create_table(
        "sync_dead_letters",
        _required("id", sa.Uuid()),
        _required("node_id", sa.Uuid()),
        _required("stream_id", sa.Uuid()),
        _required("seq", sa.BigInteger()),
        _required("tbl", sa.Text()),
        _required("op", sa.Text()),
        _required("row_key", sa.Text()),
        # What the box knew of the table: kind, key, columns in order with their merge rule.
        _required("layout", _JSON),
        sa.Column("new", _JSON),
        sa.Column("old", _JSON),
        _required("sqlstate", sa.Text()),
        _required("message", sa.Text()),
        _required("state", sa.Text(), server_default="waiting"),
        _required("created_at", _TIME, server_default=sa.func.now()),
        sa.Column("settled_at", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_sync_dead_letters"),
        sa.UniqueConstraint("stream_id", "seq", name="uq_sync_dead_letters_stream_id"),
        sa.CheckConstraint(
            "state IN ('waiting', 'retried', 'discarded')", name="ck_sync_dead_letters_state"
        ),
    )
    op.create_index(
        "ix_sync_dead_letters_waiting",
        "sync_dead_letters",
        ["node_id", "tbl", "row_key"],
        postgresql_where=sa.text("state = 'waiting'"),
    )
    op.create_table(
        "sync_conflicts",
        _required("id", sa.Uuid()),
        _required("node_id", sa.Uuid()),
        _required("stream_id", sa.Uuid()),
        _required("seq", sa.BigInteger()),
        _required("tbl", sa.Text()),
        _required("row_key", sa.Text()),
        _required("reason", sa.Text()),
        sa.Column("hub", _JSON),
        sa.Column("box", _JSON),
        _required("state", sa.Text(), server_default="open"),
        _required("created_at", _TIME, server_default=sa.func.now()),
        sa.Column("settled_at", _TIME),
        sa.PrimaryKeyConstraint("id", name="pk_sync_conflicts"),
        sa.CheckConstraint("state IN ('open', 'settled')", name="ck_sync_conflicts_state"),
    )
    op.create_index("ix_sync_conflicts_stream_id_seq", "sync_conflicts", ["stream_id", "seq"])
    op.create_index(
        "ix_sync_conflicts_open",
        "sync_conflicts",
        ["node_id", "created_at"],
        postgresql_where=sa.text("state = 'open'"),
    )


def downgrade() -> None:
    """Drop the tables."""
    for table in (
        *("sync_gaps", "sync_tombstones", "sync_conflicts", "sync_dead_letters"),
        *("nodes", "sync_streams"),
    ):
        op.drop_table(table)
