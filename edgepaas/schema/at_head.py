# SPDX-License-Identifier: Apache-2.0
"""Whether a database is at head, for the verification gate; imports no Alembic."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.database.table_presence import missing
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
    from edgepaas.schema import fingerprint as likeness
    from edgepaas.schema import migrations

    chain = chain_of(application)
    with database.read() as session:
        connection = session.connection()
        found = migrations.versions(connection, chain)
        if not chain.unwritten and found == chain.heads:
            # What the version says was true once; somebody may have dropped a table since.
            metadata = metadata_of(application)
            lacks = "" if metadata is None else missing(connection, metadata)
            if lacks:
                return SchemaState(False, f"{lacks}, though at head ({show(found)}): {_RESTORE}")
            return SchemaState(True, f"at head ({show(found)})")
        unknown = (found or frozenset()) - frozenset(chain.parents)
        shape = migrations.shape_of(connection, chain)
        needs = likeness.needs_of(connection, chain, metadata_of(application))
        misfit = likeness.fits(shape, connection, needs)
        if chain.unwritten or unknown:
            if not misfit:
                newer = f"at {show(unknown)}, of a newer build; it fits"
                return SchemaState(True, newer if unknown else "every table is there")
            return SchemaState(False, f"{misfit}; run 'edgepaas schema --repair'")
    behind = f"at {show(found or ())}, but this build needs {show(chain.heads)}"
    if misfit or metadata_of(application) is None:
        return SchemaState(False, f"{behind}: run 'edgepaas schema'")
    advice = "run 'edgepaas schema', which says what keeps it, or with --repair, which mends it"
    return SchemaState(False, f"{behind}; its tables fit, so it serves: {advice}", fits=True)
