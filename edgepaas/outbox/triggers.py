# SPDX-License-Identifier: Apache-2.0
"""The triggers that capture each change of a table, as text.

SQLite fires them on every write path, a foreign program's as well. One thing it does not
report: what an INSERT OR REPLACE displaces on a connection without ``recursive_triggers``
(https://sqlite.org/lang_conflict.html), which is why ``open_sqlite`` sets it. Of such a
one only the insert is captured, which the hub merges with the row that it has.
"""

from edgepaas.database.reserved_names import FENCED, OUTBOX, STATE
from edgepaas.outbox.layout import Layout
from edgepaas.outbox.tables import quoted

#: Every trigger of the outbox is called so, and no other may be.
PREFIX = "outbox_"

#: One look at the state a row: nothing while capture is off, an error while the fence stands.
_WHEN = (
    f"(SELECT CASE WHEN fence IS NULL OR NOT capture THEN capture "  # noqa: S608
    f"ELSE RAISE(ABORT, '{FENCED}') END FROM {STATE} WHERE id = 1)"
)


def triggers_for(layout: Layout) -> dict[str, str]:
    """Return the CREATE TRIGGER statements of *layout*'s table by the triggers' names.

    An update that changes the key is captured as a delete and an insert. A change of a
    key's case or of its bits is a change whatever the column's collation says.
    """
    table = quoted(layout.table)
    new = ", ".join(f"NEW.{quoted(name)}" for name in layout.names)
    old = ", ".join(f"OLD.{quoted(name)}" for name in layout.names)
    same_key = " AND ".join(
        f"OLD.{quoted(name)} COLLATE BINARY IS NEW.{quoted(name)}" for name in layout.key
    )
    count = len(layout.columns)
    insert = _captured(layout, "I", new, count)
    delete = _captured(layout, "D", old, count)
    update = _captured(layout, "U", f"{new}, {old}", 2 * count)
    return {
        f"{PREFIX}{word}_{layout.table}": (
            f"CREATE TRIGGER {quoted(f'{PREFIX}{word}_{layout.table}')} AFTER {event} ON {table} "
            f"WHEN {condition}{_WHEN} BEGIN {body} END"
        )
        for word, event, condition, body in (
            ("insert", "INSERT", "", insert),
            ("delete", "DELETE", "", delete),
            ("update", "UPDATE", f"({same_key}) AND ", update),
            ("rekey", "UPDATE", f"NOT ({same_key}) AND ", f"{delete} {insert}"),
        )
    }


def values_of(count: int) -> str:
    """Return the names of the outbox's first *count* columns of values, for a statement."""
    return ", ".join(f"v{position}" for position in range(count))


def _captured(layout: Layout, op: str, values: str, count: int) -> str:
    return (
        f"INSERT INTO {OUTBOX} (layout, op, {values_of(count)}) "  # noqa: S608
        f"VALUES ({layout.id}, '{op}', {values});"
    )
