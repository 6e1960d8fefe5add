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
ABSENT: Final = "outbox_absent"

#: What a write is told while the fence stands; the text of the triggers' RAISE.
FENCED: Final = "edgepaas: writes wait while PostgreSQL takes over"

_NAMES = frozenset({OUTBOX, "nodes", "alembic_version"})
_PREFIXES = ("outbox_", "sync_", "edgepaas_", "sqlite_", "_alembic_tmp_")


def is_reserved(table: str) -> bool:
    """Whether an application may not call a table so; SQL knows no upper and lower case."""
    name = table.casefold()
    return name in _NAMES or name.startswith(_PREFIXES)
