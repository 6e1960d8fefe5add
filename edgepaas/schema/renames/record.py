# SPDX-License-Identifier: Apache-2.0
"""Writing the record of revisions, on either database, in the transaction of the migration."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgepaas.database.reserved_names import REVISIONS
from edgepaas.outbox.revisions.changes import RevisionChanges
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


def append_unobserved(connection: "Connection", chain: Chain, revisions: Revisions) -> None:
    """Add *revisions* and what comes before them where the record lacks them, oldest first.

    They were applied by an older build, or by hand, and nobody looked at what they renamed.
    """
    record = read(connection)
    for revision in in_order(chain, revisions):
        if not record.knows(revision):
            append(connection, chain, RevisionChanges(revision, observed=False))


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
