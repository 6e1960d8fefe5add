# SPDX-License-Identifier: Apache-2.0
"""What PostgreSQL acknowledged while it served, and has lost (edgepaas.marks)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgepaas.files.node_identity import node_identity
from edgepaas.marks.check import missing_now
from edgepaas.marks.comparison import NOTHING, Mark
from edgepaas.marks.record import read_record
from edgepaas.sync.errors import HubError
from edgepaas.sync.hub.connection import open_hub

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings


@dataclass(frozen=True)
class LostMarks:
    """Rows, and the transactions that wrote them; *open* are those that no operator knows of."""

    rows: int = 0
    transactions: int = 0
    open_rows: int = 0
    open_transactions: int = 0

    def discrepancies(self) -> list[str]:
        """Return the line that says what is missing, if something is."""
        if not self.open_rows:
            return []
        return [
            f"PostgreSQL lacks {self.open_rows:,} rows, in {self.open_transactions:,} "
            "transactions, that it acknowledged to this box while it served: it went back in time; "
            "once that is dealt with: 'edgepaas sync acknowledge'"
        ]


def read_lost_marks(paths: "Paths", settings: "Settings", hub_url: str) -> LostMarks:
    """Return what was found missing so far, and what is missing now; changes nothing.

    Where the hub cannot be asked, what was found so far has to do. Raises OSError, LockHeld.
    """
    node_id = node_identity(paths).node_id
    record = read_record(paths, node_id)
    if record is None:
        return LostMarks()
    now = _missing_now(paths, settings, hub_url, node_id) if hub_url else NOTHING
    lost = record.lost.plus(now)
    unsettled = lost.beyond(record.acknowledged)
    return LostMarks(lost.rows, lost.transactions, unsettled.rows, unsettled.transactions)


def _missing_now(paths: "Paths", settings: "Settings", hub_url: str, node_id: str) -> Mark:
    try:
        with open_hub(settings, hub_url, name="edgepaas-audit") as hub:

            def ask(sql: str) -> Sequence[Sequence[Any]]:
                return hub.query(sql)

            return missing_now(ask, paths, node_id)
    except HubError:
        return NOTHING  # the audit itself reports that the hub cannot be read
