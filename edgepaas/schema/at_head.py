# SPDX-License-Identifier: Apache-2.0
"""Whether a database is at head, for the verification gate; imports no Alembic."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.database.table_presence import describe_missing, missing_in, missing_query
from edgepaas.hosting.loading import metadata_of
from edgepaas.outcomes.fit import Fit, fit_question, judge
from edgepaas.schema.chain import Chain, Revisions, chain_of, show
from edgepaas.schema.table_contract import describe

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

    from edgepaas.app import Application
    from edgepaas.database import Database


#: The revisions, NULL where there are none that may be read: a statement that names a table which
#: is not there is an error, and one that says whether it is there costs another round trip.
#: ts_stat() takes the statement as text, as query_to_xml() does, which a server built without
#: libxml lacks.
_VERSIONS_ALONE = (
    "SELECT CASE WHEN has_table_privilege(to_regclass('{table}'), 'SELECT') THEN ("
    "SELECT array_to_string(array_agg(word), ' ') FROM "
    "ts_stat('SELECT array_to_tsvector(ARRAY[version_num::text]) FROM {table}')) END"
)
_QUESTION = (
    f"{_VERSIONS_ALONE}, ({{fit}}), t, c "
    "FROM (SELECT 1) AS one LEFT JOIN ({lacking}) AS lacks(t, c) ON true"
)
_RESTORE = "restore it, or see what 'edgepaas schema --repair' finds"
_NOTHING = Fit()
_UNTIL = "until its owner has run this, nothing is written there"


@dataclass(frozen=True)
class SchemaState:
    """*at_head* says whether this build can work; *message* is a line for a person.

    *fits*: it is not at head, but its tables hold all that this build needs. *reservation*:
    what it does not take of single rows, though it changes none; empty where there is nothing.
    """

    at_head: bool
    message: str
    fits: bool = False
    reservation: str = ""

    @property
    def text(self) -> str:
        """The message, with the reservation if there is one."""
        return "; but ".join(filter(None, (self.message, self.reservation)))


def schema_at_head(database: "Database", application: "Application") -> SchemaState:
    """Compare the database's revisions with the scripts'; raises a DatabaseError.

    A database that a newer build migrated passes when it holds all that this build needs.
    """
    from edgepaas.schema import fingerprint, migrations, ownership
    from edgepaas.schema.renames.record import renamed_since

    chain = chain_of(application)
    if database.dialect == "postgresql" and not chain.unwritten:
        state = _found_at_once(database, chain, metadata_of(application))
        if state is not None:
            return state
    with database.read() as session:
        connection = session.connection()
        owned = ownership.ownership_of(connection, chain)
        if other := owned.other(chain):
            return SchemaState(False, f"it is the database of the application {other}")
        found = owned.revisions
        metadata = metadata_of(application)
        if not chain.unwritten and found == chain.heads:
            # The version was true once; a table may have been dropped since.
            return _at_head(found, "" if metadata is None else missing_in(connection, metadata))
        shape = migrations.columns_by_table(connection, chain)
        needs = fingerprint.required_columns(connection, chain, metadata)
        incompatibility = fingerprint.incompatibility_of(shape, connection, needs)
        incompatibility = incompatibility or renamed_since(connection, chain, needs)
        fit = Fit() if incompatibility else fit_of(connection, metadata)
    if fit.refusals:
        return SchemaState(False, f"{fit.reason}; {_UNTIL}")
    unknown = (found or frozenset()) - frozenset(chain.parents)
    if chain.unwritten or unknown:
        return _without_revision(unknown, incompatibility, fit)
    return _behind(chain, found, can_serve=not incompatibility and metadata is not None)


def missing_indexes_reason(database: "Database", application: "Application") -> str:
    """Return which indexes of the models are not there, with the way out; empty: none is missing.

    Nothing fails without them, so the gate does not ask; but what they make quick or unique is not.
    """
    from edgepaas.schema.repair.completion import missing_indexes

    with database.read() as session:
        lacking = missing_indexes(session.connection(), metadata_of(application))
    if not lacking:
        return ""
    return f"without {', '.join(lacking)}: 'edgepaas schema --repair' makes the index"


def _without_revision(unknown: Revisions, incompatibility: str, fit: Fit) -> SchemaState:
    if incompatibility:
        return SchemaState(False, f"{incompatibility}; run 'edgepaas schema --repair'")
    newer = f"at {show(unknown)}, of a newer build; it fits"
    said = newer if unknown else "every table is there"
    return SchemaState(True, said, reservation=fit.reservation)


def _behind(chain: Chain, found: Revisions | None, *, can_serve: bool) -> SchemaState:
    behind = f"at {show(found or ())}, but this build needs {show(chain.heads)}"
    if not can_serve:
        return SchemaState(False, f"{behind}: run 'edgepaas schema'")
    advice = "run 'edgepaas schema', which says what keeps it, or with --repair, which mends it"
    return SchemaState(False, f"{behind}; its tables fit, so it serves: {advice}", fits=True)


def fit_of(connection: "Connection", metadata: "MetaData | None") -> Fit:
    """Return whether the tables of *metadata* fit in PostgreSQL; what SQLite has always does."""
    if metadata is None or connection.dialect.name != "postgresql":
        return Fit()
    models = describe(metadata)
    answer = connection.exec_driver_sql(fit_question(models)).scalar_one()
    return judge(models, str(answer))


def _at_head(found: Revisions, lacks: str, fit: Fit = _NOTHING) -> SchemaState:
    if lacks:
        return SchemaState(False, f"{lacks}, though at head ({show(found)}): {_RESTORE}")
    if fit.refusals:
        return SchemaState(False, f"{fit.reason}, though at head ({show(found)}): {_UNTIL}")
    return SchemaState(True, f"at head ({show(found)})", reservation=fit.reservation)


def _found_at_once(
    database: "Database", chain: Chain, metadata: "MetaData | None"
) -> SchemaState | None:
    """Ask PostgreSQL for the version, what is missing and what does not fit, in one round trip.

    None where it is not at head, which is looked into at length.
    """
    lacking = "" if metadata is None else missing_query(metadata, "postgresql")
    models = {} if metadata is None else describe(metadata)
    question = _QUESTION if lacking else _VERSIONS_ALONE
    question = question.format(table=chain.version_table, lacking=lacking, fit=fit_question(models))
    with database.read() as session:
        # pg8000 looks for its placeholders.
        row = session.connection().exec_driver_sql(question.replace("%", "%%")).one()
    versions, *found = row
    if frozenset((versions or "").split()) != chain.heads:
        return None
    if not found:
        return _at_head(chain.heads, "")
    answer, *lacks = found
    missing = describe_missing((lacks[0], lacks[1])) if lacks[0] is not None else ""
    return _at_head(chain.heads, missing, judge(models, str(answer)))
