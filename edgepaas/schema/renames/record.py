# SPDX-License-Identifier: Apache-2.0
"""Writing the record of revisions, on either database, in the transaction of the migration."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from edgepaas.database.reserved_names import REVISIONS
from edgepaas.outbox.revisions.changes import Names, RevisionChanges
from edgepaas.outbox.revisions.record import QUERY, RevisionRecord, record_of
from edgepaas.schema.chain import Chain, Revisions

if TYPE_CHECKING:
    from sqlalchemy import Connection

#: PostgreSQL's is made by the platform's own migrations.
_TABLE = f"""CREATE TABLE IF NOT EXISTS {REVISIONS} (
    position INTEGER PRIMARY KEY, chain TEXT NOT NULL, revision TEXT NOT NULL, changes TEXT,
    recorded_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, UNIQUE (chain, revision))"""
_APPEND = (
    f"INSERT INTO {REVISIONS} (position, chain, revision, changes) "  # noqa: S608
    f"SELECT coalesce(max(position), 0) + 1, :chain, :revision, :changes FROM {REVISIONS} "
    "WHERE true ON CONFLICT (chain, revision) DO NOTHING"
)


def is_kept(connection: "Connection") -> bool:
    """Whether the database has a record; in an SQLite file it is made."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(_TABLE)
        return True
    found = connection.exec_driver_sql(f"SELECT to_regclass('{REVISIONS}') IS NOT NULL").scalar()
    return bool(found)


def is_readable(connection: "Connection") -> bool:
    """Whether there is a record that this role may read; nothing is made."""
    from sqlalchemy import inspect

    if not inspect(connection).has_table(REVISIONS):
        return False
    if connection.dialect.name == "sqlite":
        return True
    asked = f"SELECT has_table_privilege('{REVISIONS}', 'SELECT')"
    return bool(connection.exec_driver_sql(asked).scalar())


def read(connection: "Connection") -> RevisionRecord:
    """Return the record; raises ValueError for one that this build cannot read."""
    return record_of([tuple(row) for row in connection.exec_driver_sql(QUERY)])


def append(connection: "Connection", chain: Chain, changes: RevisionChanges) -> None:
    """Add what a revision changed; a revision that is recorded already is left as it is."""
    from sqlalchemy import text

    values = {
        "chain": chain.name,
        "revision": changes.revision,
        "changes": changes.as_text(),
    }
    connection.execute(text(_APPEND), values)


def forget(connection: "Connection", chain: Chain, revisions: Revisions) -> None:
    """Take out *revisions*, which were taken back.

    The position of the last one that stays grows: a drainer sees by it that the record changed.
    """
    from sqlalchemy import text

    latest = connection.exec_driver_sql(f"SELECT max(position) FROM {REVISIONS}").scalar()  # noqa: S608
    for revision in sorted(revisions):
        connection.execute(
            text(f"DELETE FROM {REVISIONS} WHERE chain = :chain AND revision = :revision"),  # noqa: S608
            {"chain": chain.name, "revision": revision},
        )
    connection.execute(
        text(
            f"UPDATE {REVISIONS} SET position = :position "  # noqa: S608
            f"WHERE position = (SELECT max(position) FROM {REVISIONS})"
        ),
        {"position": int(latest or 0) + 1},
    )


def append_unobserved(connection: "Connection", chain: Chain, revisions: Revisions) -> None:
    """Add *revisions* and what comes before them where the record lacks them, oldest first.

    They were applied by an older build, or by hand, and nobody looked at what they renamed.
    """
    record = read(connection)
    for revision in in_order(chain, revisions):
        if not record.knows(revision):
            append(connection, chain, RevisionChanges(revision, observed=False))


def names_there(
    connection: "Connection", chain: Chain, needs: "Mapping[str, frozenset[str]]"
) -> "dict[str, frozenset[str]]":
    """Return *needs*, columns by table at the head of *chain*, as they are called there now.

    What was dropped by a later revision is left out.
    """
    later = _later_than(read(connection), chain)
    found: dict[str, frozenset[str]] = {}
    for table, columns in needs.items():
        names = Names.of(table, columns).after(later)
        if names.table is not None:
            there = (name for name in names.columns.values() if name is not None)
            found[names.table] = frozenset(there)
    return found


def renamed_since(
    connection: "Connection", chain: Chain, needs: "Mapping[str, frozenset[str]]"
) -> str:
    """Return which of *needs*, columns by table, a later build calls otherwise; empty: none.

    A database whose columns have swapped their names holds all that an older build needs, and
    would get each one's values under the other's name.
    """
    if not is_readable(connection):
        return ""
    later = _later_than(read(connection), chain)
    for table, columns in needs.items():
        names = Names.of(table, sorted(columns))
        after = names.after(later)
        if after.table != table:
            return f"a newer build calls the table {table} {after.table or 'nothing any more'}"
        for name, now in after.columns.items():
            if name != now:
                return f"a newer build calls {table}.{name} {now or 'nothing any more'}"
    return ""


def _later_than(record: RevisionRecord, chain: Chain) -> tuple[RevisionChanges, ...]:
    head = ",".join(sorted(chain.heads))
    return record.after(head) if record.knows(head) else ()


def in_order(chain: Chain, revisions: Iterable[str]) -> list[str]:
    """Return *revisions* and all that come before them, each after its parents."""
    found: dict[str, None] = {}

    def add(revision: str) -> None:
        if revision in found or revision not in chain.parents:
            return
        for parent in chain.parents[revision]:
            add(parent)
        found[revision] = None

    for revision in sorted(revisions):
        add(revision)
    return list(found)
