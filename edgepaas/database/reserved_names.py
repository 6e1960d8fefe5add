# SPDX-License-Identifier: Apache-2.0
"""Names that belong to the platform, in the SQLite file and in PostgreSQL.

They stand here, without SQLAlchemy, for the models' check, the triggers, and the writer.
"""

from typing import Final

OUTBOX: Final = "outbox"
STATE: Final = "outbox_state"
LAYOUTS: Final = "outbox_layouts"
TRANSACTIONS: Final = "outbox_transactions"
BATCHES: Final = "outbox_batches"
LEDGER: Final = "outbox_ledger"
SEQUENCE_GAPS: Final = "outbox_absent"
RECOVERY: Final = "outbox_recovery"
RESENT: Final = "outbox_resent"
SWITCHES: Final = "outbox_switches"
COPIES: Final = "outbox_copies"
HUB_TABLES: Final = "outbox_hub_tables"
COPIED: Final = "outbox_copied"
#: What each revision of the schema renamed; the same name on both databases.
REVISIONS: Final = "edgepaas_revisions"

#: Tables of the platform in PostgreSQL without which a box works all the same: marks of connections
#: (edgepaas.marks) and of the hub's history (edgepaas.sync.hub.history), and what is kept of
#: renames (edgepaas.outbox.revisions, edgepaas.sync.hub.layouts).
OPTIONAL_TABLES: Final = ("sync_connections", "sync_histories", REVISIONS, "sync_layouts")

#: The functions that capture on the hub what a box writes there, and hand it over.
CAPTURE: Final = "edgepaas_capture"
CAPTURED: Final = "edgepaas_captured"

#: The applications whose database it is (edgepaas.schema.ownership).
APPLICATIONS: Final = "edgepaas_applications"

#: What a write is answered while the fence stands: the text of the triggers' RAISE.
FENCED: Final = "edgepaas: writes wait while PostgreSQL takes over"

_NAMES = frozenset({OUTBOX, "nodes"})
#: Each application has a version table of its own (edgepaas.schema.ownership).
_PREFIXES = ("alembic_version", "outbox_", "sync_", "edgepaas_", "sqlite_", "_alembic_tmp_")


def is_reserved(table: str) -> bool:
    """Whether the name belongs to the platform; case does not matter in SQL."""
    name = table.casefold()
    return name in _NAMES or name.startswith(_PREFIXES)
