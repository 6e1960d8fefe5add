# SPDX-License-Identifier: Apache-2.0
"""Migrating a database to head: each revision is observed, recorded, and may be refused."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgepaas.schema import migrations
from edgepaas.schema.chain import Chain
from edgepaas.schema.errors import RevisionRefused
from edgepaas.schema.renames import record
from edgepaas.schema.renames.observer import ObservedRevision, observed

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

#: Returns what of rows that wait, or of other boxes, a revision would break; empty: nothing.
Guard = Callable[[ObservedRevision], Sequence[str]]

_WAY_OUT = (
    "let these rows reach PostgreSQL first ('edgepaas sync status' shows what waits): PostgreSQL's "
    "revision goes on by itself then, a file's with the next run of 'edgepaas schema'; or say in "
    "the migration where their values belong (edgepaas.app.renamed), or that they need no place "
    "(edgepaas.app.retired)"
)


def upgrade(
    connection: "Connection", chain: Chain, metadata: "MetaData | None", guard: Guard | None = None
) -> RevisionRefused | None:
    """Migrate to head in the transaction that *connection* is in, and record what is renamed.

    The platform's own tables hold no rows that wait: its chain has no record. A revision that
    *guard* refuses is taken back, and so is what comes after it; those before it stay. Returns
    the refusal; None: the database is at head. Raises what a migration raises.
    """
    if chain.unwritten or chain.only_postgres or not record.is_kept(connection):
        migrations.upgrade(connection, chain, metadata)
        return None
    before = migrations.versions(connection, chain) or frozenset()
    record.append_unobserved(connection, chain, before)
    run = _Run(connection, chain, metadata, guard)
    try:
        with connection.begin_nested():
            run.to("heads")
    except RevisionRefused as refused:
        for revision in tuple(run.applied):
            run.to(revision)
        refused.reached = migrations.versions(connection, chain) or frozenset()
        return refused
    return None


class _Run:
    """Runs migrations; ``applied`` are the revisions that nothing was found against."""

    def __init__(
        self,
        connection: "Connection",
        chain: Chain,
        metadata: "MetaData | None",
        guard: Guard | None,
    ) -> None:
        self._connection = connection
        self._chain = chain
        self._metadata = metadata
        self._guard = guard
        self.applied: list[str] = []

    def to(self, revision: str) -> None:
        """Migrate to *revision*; each one on the way is recorded. Raises RevisionRefused."""
        with observed(self._connection, self._finished) as observer:
            migrations.upgrade(
                self._connection,
                self._chain,
                self._metadata,
                revision,
                applied=observer.revision_applied,
            )

    def _finished(self, revision: ObservedRevision) -> None:
        name = revision.changes.revision
        broken = [] if self._guard is None else self._guard(revision)
        if broken:
            raise RevisionRefused(f"revision {name} waits: {'; '.join(broken)}. {_WAY_OUT}")
        record.append(self._connection, self._chain, revision.changes)
        self.applied.append(name)
