# SPDX-License-Identifier: Apache-2.0
"""One chain of migrations on PostgreSQL: from what is there to head, as far as rows allow it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.schema.chain import Chain, Revisions, show
from edgepaas.schema.errors import RevisionRefused, SchemaError
from edgepaas.schema.report import Action

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

    from edgepaas.schema.migrations import TableColumns
    from edgepaas.schema.renames.boxes import OwnBox


@dataclass
class ChainUpgrade:
    """One chain, brought to head in the transaction of *connection*."""

    connection: "Connection"
    chain: Chain
    metadata: "MetaData | None"
    own: "OwnBox | None"
    forwarding: bool
    #: Why a revision waits.
    refused: RevisionRefused | None = None

    def run(self, before: Revisions | None, *, adopt: bool) -> Action:
        """Bring it to head from *before*; returns what was done, raises what a migration raises."""
        from edgepaas.schema import fingerprint, migrations, ownership

        connection, chain, metadata = self.connection, self.chain, self.metadata
        if chain.unwritten:
            if metadata is not None:
                metadata.create_all(connection)
            if not before:  # a version that another build wrote is left to it
                migrations.stamp(connection, chain, chain.heads)
            return "migrated"
        # An empty version table: the tables were made from the models before there was a migration.
        adopt = adopt or before == frozenset()
        if before == chain.heads and not adopt:
            ownership.claim(connection, chain)
            return "nothing"
        shape = migrations.columns_by_table(connection, chain)
        # Not asked for where nothing hangs on it: the platform's have to be tried out.
        looked_at = adopt or not before or not chain.only_postgres
        ours = set(
            fingerprint.required_columns(connection, chain, metadata) if looked_at else ()
        ) & set(shape)
        unknown = (before or frozenset()) - frozenset(chain.parents)
        if adopt and ours:
            alike = fingerprint.match_fingerprint(connection, chain, metadata, before)
            if alike.revisions is not None and alike.revisions != before:
                migrations.stamp(connection, chain, alike.revisions)
                return self._to_head("adopted")
            if before == chain.heads and alike.revisions is not None:
                return "nothing"
            hint = f"its tables look like no known revision: {alike.difference}"
        else:
            hint = "'edgepaas schema --repair' finds out which it is"
        if unknown:
            require_compatible(
                connection,
                chain,
                metadata,
                f"PostgreSQL is at revision {show(unknown)}, unknown to this build, and ",
                f": install the build that made it; {hint}",
                forwarding=self.forwarding,
            )
            return "ahead"
        if not before and ours:
            raise SchemaError(
                f"PostgreSQL has the tables {', '.join(sorted(ours))} but no version of them; "
                f"{hint}"
            )
        if before == chain.heads:
            raise SchemaError(f"PostgreSQL says that it is at {show(before)}, but {hint}")
        return self._to_head("migrated" if before else "created")

    def _to_head(self, done: Action) -> Action:
        """Run the migrations; where one waits, the tables have to fit as they are.

        Where rows are only sent there, those that it waits for are: they go home first.
        """
        from edgepaas.schema.renames.boxes import guard_of_hub
        from edgepaas.schema.renames.upgrade import upgrade

        guard = None if self.own is None else guard_of_hub(self.connection, self.own)
        self.refused = upgrade(self.connection, self.chain, self.metadata, guard)
        if self.refused is None:
            return done
        if not self.forwarding:
            before = f"PostgreSQL: {self.refused}; and without it "
            require_compatible(
                self.connection, self.chain, self.metadata, before, "", forwarding=False
            )
        return "unmigrated"


def require_compatible(
    connection: "Connection",
    chain: Chain,
    metadata: "MetaData | None",
    before: str,
    after: str,
    *,
    forwarding: bool,
) -> None:
    """Raise SchemaError, between these words, where this build cannot work with the tables."""
    from edgepaas.schema import fingerprint, migrations
    from edgepaas.schema.renames.record import renamed_since

    shape = migrations.columns_by_table(connection, chain)
    needs = needed_columns(connection, chain, metadata, forwarding=forwarding)
    found = fingerprint.incompatibility_of(shape, connection, needs)
    if not found and not forwarding:
        found = renamed_since(connection, chain, needs)
    if found:
        raise SchemaError(f"{before}{found}{after}")


def needed_columns(
    connection: "Connection", chain: Chain, metadata: "MetaData | None", *, forwarding: bool
) -> "TableColumns":
    """Return the tables and columns that this build works with, as they are called there.

    Where rows are only sent there (*forwarding*), a newer build may have renamed some: the record
    of revisions tells where they are, and what it dropped is not needed.
    """
    from edgepaas.schema import fingerprint
    from edgepaas.schema.renames import record

    needs = fingerprint.required_columns(connection, chain, metadata)
    if chain.only_postgres or not forwarding or not record.is_readable(connection):
        return needs
    return record.names_there(connection, chain, needs)
