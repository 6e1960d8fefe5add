# SPDX-License-Identifier: Apache-2.0
"""Whether a database is at head, for the verification gate; imports no Alembic."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.database.table_presence import missing_in
from edgepaas.hosting.loading import metadata_of
from edgepaas.schema.chain import chain_of, show

if TYPE_CHECKING:
    from edgepaas.app import Application
    from edgepaas.database import Database


_RESTORE = "restore it, or see what 'edgepaas schema --repair' finds"


@dataclass(frozen=True)
class SchemaState:
    """*at_head* says whether this build can work; *message* is a line for a person.

    *fits*: it is not at head, but its tables hold all that this build needs.
    """

    at_head: bool
    message: str
    fits: bool = False


def schema_at_head(database: "Database", application: "Application") -> SchemaState:
    """Compare the database's revisions with the scripts'; raises a DatabaseError.

    A database that a newer build migrated passes when it holds all that this build needs.
    """
    from edgepaas.schema import fingerprint, migrations

    chain = chain_of(application)
    with database.read() as session:
        connection = session.connection()
        found = migrations.versions(connection, chain)
        if not chain.unwritten and found == chain.heads:
            # The version was true once; a table may have been dropped since.
            metadata = metadata_of(application)
            lacks = "" if metadata is None else missing_in(connection, metadata)
            if lacks:
                return SchemaState(False, f"{lacks}, though at head ({show(found)}): {_RESTORE}")
            return SchemaState(True, f"at head ({show(found)})")
        unknown = (found or frozenset()) - frozenset(chain.parents)
        shape = migrations.columns_by_table(connection, chain)
        needs = fingerprint.required_columns(connection, chain, metadata_of(application))
        incompatibility = fingerprint.incompatibility_of(shape, connection, needs)
        if chain.unwritten or unknown:
            if not incompatibility:
                newer = f"at {show(unknown)}, of a newer build; it fits"
                return SchemaState(True, newer if unknown else "every table is there")
            return SchemaState(False, f"{incompatibility}; run 'edgepaas schema --repair'")
    behind = f"at {show(found or ())}, but this build needs {show(chain.heads)}"
    if incompatibility or metadata_of(application) is None:
        return SchemaState(False, f"{behind}: run 'edgepaas schema'")
    advice = "run 'edgepaas schema', which says what keeps it, or with --repair, which mends it"
    return SchemaState(False, f"{behind}; its tables fit, so it serves: {advice}", fits=True)
