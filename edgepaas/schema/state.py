"""Whether a database is at head, for the verification gate; imports no Alembic."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.schema.chain import chain_of, show

if TYPE_CHECKING:
    from edgepaas.application import Application
    from edgepaas.database import Database


@dataclass(frozen=True)
class SchemaState:
    """*at_head* says whether this build can work; *message* is a line for a person."""

    at_head: bool
    message: str


def schema_at_head(database: "Database", application: "Application") -> SchemaState:
    """Compare the database's revisions with the scripts'; raises a DatabaseError.

    A database that a newer build migrated passes when it holds all that this build needs.
    """
    from edgepaas.schema import migrations

    chain = chain_of(application)
    with database.read() as session:
        connection = session.connection()
        found = migrations.versions(connection, chain)
        if chain.folder is not None and found == chain.heads:
            return SchemaState(True, f"at head ({show(found)})")
        unknown = (found or frozenset()) - frozenset(chain.parents)
        if chain.folder is None or unknown:
            shape = migrations.shape_of(connection, chain)
            misfit = migrations.fits(shape, connection, application.metadata)
            if not misfit:
                newer = f"at {show(unknown)}, of a newer build; it fits"
                return SchemaState(True, newer if unknown else "every table is there")
            return SchemaState(False, f"{misfit}; run 'edgepaas schema --repair'")
    return SchemaState(
        False,
        f"at {show(found or ())}, but this build needs {show(chain.heads)}: run 'edgepaas schema'",
    )
