# SPDX-License-Identifier: Apache-2.0
"""Whether PostgreSQL refuses one row or the whole table, found out inside a batch's transaction.

A row that is refused becomes a dead letter; a table that refuses all of them would make dead
letters of everything that waits, so it holds the stream instead.
"""

from collections.abc import Mapping

from edgepaas.outbox.layout import Layout
from edgepaas.outcomes.causes import Cause, KnownTable, Refusal, refusal_of
from edgepaas.outcomes.rehearsal import Rehearsal, rehearse, shown_refusal
from edgepaas.sync.errors import HubError, HubUnreachable, SchemaDrift, TableRefused
from edgepaas.sync.hub.connection import Hub


class TableJudge:
    """Tells the two apart; what it found is taken for granted until the batch ends."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        #: Whether the table refuses every row, by table, SQLSTATE and constraint.
        self._verdicts: dict[tuple[str, str, str], bool] = {}

    def refusal(self, error: HubError, table: str, layout: Layout) -> Refusal | None:
        """Return what *error* may say of *table*, the hub's of *layout*; None for nothing."""
        if self._hub.broken:
            return None
        known = {table: KnownTable(dict.fromkeys(layout.names, ""))}
        return refusal_of(error, [table], known)

    def raise_for_table(
        self, refusal: Refusal, table: str, layout: Layout, error: HubError
    ) -> None:
        """Raise TableRefused, or SchemaDrift, where every row would be refused.

        It returns where *error* is about one row.
        """
        if refusal.cause is Cause.REQUIRED_COLUMN:
            # The catalog as this connection read it is old: read anew, it says which column.
            raise SchemaDrift(refusal.text) from error
        if not refusal.doubtful:
            raise TableRefused(refusal) from error
        key = (refusal.table, refusal.sqlstate, refusal.constraint)
        if key not in self._verdicts:
            self._verdicts[key] = self._refuses_every_row(table, layout)
        if self._verdicts[key]:
            raise TableRefused(refusal) from error

    def _refuses_every_row(self, table: str, layout: Layout) -> bool:
        known = KnownTable(dict.fromkeys(layout.names, ""))
        found = rehearse_on_hub(self._hub, table, known.columns)
        # Made-up values prove nothing: the rows at hand may be the first of their kind.
        return found.copied and shown_refusal(found, table, known) is not None


def rehearse_on_hub(hub: Hub, table: str, columns: Mapping[str, str]) -> Rehearsal:
    """Rehearse a write to *table* in the open transaction of *hub*, and undo it.

    Raises HubUnreachable where the connection was lost.
    """

    def read(sql: str) -> list[list[object]]:
        return hub.savepoint([(sql, ())])[0].rows

    def attempt(sql: str) -> int:
        results = hub.savepoint(
            [
                ("SAVEPOINT rehearsal", ()),
                (sql, ()),
                ("SET CONSTRAINTS ALL IMMEDIATE", ()),
                ("ROLLBACK TO SAVEPOINT rehearsal", ()),
            ]
        )
        return len(results[1].rows)

    found = rehearse(table, columns, read=read, attempt=attempt)
    if isinstance(found.error, HubUnreachable) and hub.broken:
        raise found.error
    return found
