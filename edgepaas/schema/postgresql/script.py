# SPDX-License-Identifier: Apache-2.0
"""``edgepaas schema --sql``: what the owner of PostgreSQL's tables is to run where a box may not.

One transaction, made for PostgreSQL as it is now: both chains to head, the application's name, the
triggers that capture changes, and this box's rights to what is new.
"""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgepaas.database.reserved_names import APPLICATIONS, OPTIONAL_TABLES
from edgepaas.outbox.hub_capture.triggers import lacking_question, trigger_statements
from edgepaas.outbox.hub_capture.upkeep import parse_lacking
from edgepaas.outbox.tables import quoted
from edgepaas.schema.chain import Chain, Revisions, show
from edgepaas.schema.errors import SchemaError

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

    from edgepaas.database.postgresql.connector import Connector
    from edgepaas.schema.postgresql.migrate import Part

_GRANT = "GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE"
_FORBIDDEN = """
SELECT c.relname::text FROM pg_catalog.pg_class c
WHERE c.relnamespace = to_regnamespace(current_schema()) AND c.relname IN ({names})
  AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
    AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))
ORDER BY 1"""
_NEW_TABLE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\"[^\"]+\"|\w+)")
#: The platform's own are executed by every box; without PUBLIC's right they need one.
_NEW_FUNCTION = re.compile(r"CREATE OR REPLACE FUNCTION (\w+)\(([^)]*)\)")


def upgrade_script(connector: "Connector", parts: "Sequence[Part]") -> str:
    """Return the script for the PostgreSQL that *connector* reaches; empty: nothing is lacking.

    Raises DatabaseUnavailable, or SchemaError where it cannot be written.
    """
    from edgepaas.schema import migrations, ownership
    from edgepaas.schema.postgresql.migrate import unusable

    engine = migrations.migration_engine(connector, "postgresql+pg8000://")
    try:
        with engine.connect() as connection:
            application, models, platform = parts[0].chain, parts[0].models(), parts[1].chain
            ownership.require_own(connection, application, "PostgreSQL", models)
            role, schema = connection.exec_driver_sql(
                "SELECT current_user::text, current_schema()::text"
            ).one()
            # What may not be read is not compared: the script after this one has the rest.
            body = _missing_rights(connection, application, platform, role)
            if not body:
                made = [
                    *_of_chain(connection, platform, None),
                    *_of_chain(connection, application, models),
                    *_triggers(connection, models),
                ]
                body = [*made, *_rights(made, role)]
    except SchemaError:
        raise
    except Exception as error:
        raise unusable(error, "its tables cannot be examined") from error
    finally:
        engine.dispose()
    if not body:
        return ""
    return "\n".join(
        [
            "-- Run it once as the owner of the tables: psql -v ON_ERROR_STOP=1 -f FILE DATABASE",
            "BEGIN;",
            f"SET LOCAL search_path TO {quoted(schema or 'public')};",
            *(f"{one.rstrip(';')};" for one in body),
            "COMMIT;",
            "",
        ]
    )


def _missing_rights(
    connection: "Connection", application: Chain, platform: Chain, role: Any
) -> Sequence[str]:
    """Return the grants of tables that another role made, and *role* may not use."""
    own = (APPLICATIONS, application.version_table, platform.version_table)
    names = ", ".join(f"'{name}'" for name in (*OPTIONAL_TABLES, *own))
    rows = connection.exec_driver_sql(_FORBIDDEN.format(names=names))
    return [f"{_GRANT} {quoted(str(row[0]))} TO {quoted(str(role))}" for row in rows]


def _of_chain(connection: "Connection", chain: Chain, metadata: "MetaData | None") -> Sequence[str]:
    """Return what brings *chain* to head, and what names it."""
    from edgepaas.schema import migrations, ownership

    before = migrations.versions(connection, chain) or frozenset()
    claim = ownership.claim_statements(connection, chain)
    if chain.unwritten or before == chain.heads:
        return claim
    if unknown := before - frozenset(chain.parents):
        raise SchemaError(
            f"PostgreSQL is at revision {show(unknown)} of {chain.name}, unknown to this build: "
            f"install the build that made it"
        )
    return [
        *_still_at(chain, before),
        *claim,
        *_written(connection, chain, metadata, before),
        *ownership.in_step_statements(connection, chain),
    ]


def _still_at(chain: Chain, before: Revisions) -> Sequence[str]:
    """Return what ends the script where somebody else was first since it was written."""
    if not before or not chain.only_postgres:
        return ()
    return (
        f"DO $$ BEGIN IF (SELECT string_agg(version_num, ', ' ORDER BY version_num) FROM "  # noqa: S608
        f"{chain.version_table}) IS DISTINCT FROM '{show(before)}' THEN RAISE EXCEPTION "
        f"'{chain.version_table} is not at {show(before)} any more: write the script again'; "
        f"END IF; END $$",
    )


def _written(
    connection: "Connection", chain: Chain, metadata: "MetaData | None", before: Revisions
) -> Sequence[str]:
    from edgepaas.schema import migrations

    if len(before) > 1:
        raise SchemaError(
            f"no script leads from {show(before)} to {show(chain.heads)}: {_OTHERWISE}"
        )
    output = io.StringIO()
    try:
        migrations.write_sql(connection, chain, metadata, "".join(before), output)
    except Exception as error:  # a migration's own code, which asks the database
        raise SchemaError(
            f"the migrations of {chain.name} cannot be written as a script ({error}): {_OTHERWISE}"
        ) from error
    return [text for text in (output.getvalue().strip(),) if text]


_OTHERWISE = (
    "have 'edgepaas schema --hub' run once by a box whose DATABASE_URL has the role that owns the "
    "tables"
)


def _triggers(connection: "Connection", metadata: "MetaData | None") -> Sequence[str]:
    from edgepaas.database.model import forwarded_tables

    tables = list(forwarded_tables(metadata)) if metadata is not None else []
    if not tables:
        return ()
    # pg8000 looks for its placeholders.
    question = f"SELECT {lacking_question(tables)}".replace("%", "%%")
    lacking = parse_lacking(str(connection.exec_driver_sql(question).scalar_one()))
    # Functions that are not there are looked up by the triggers of every table.
    named = tables if lacking.functions else lacking.tables
    return [one for table in named for one in trigger_statements(table)]


def _rights(statements: Sequence[str], role: Any) -> Sequence[str]:
    """Return the grants to *role* of what *statements* make."""
    text = "\n".join(statements)
    to = f"TO {quoted(str(role))}"
    grants = [f"{_GRANT} {table} {to}" for table in dict.fromkeys(_NEW_TABLE.findall(text))]
    grants += [
        f"GRANT EXECUTE ON FUNCTION {name}({_types(arguments)}) {to}"
        for name, arguments in dict.fromkeys(_NEW_FUNCTION.findall(text))
    ]
    return grants


def _types(arguments: str) -> str:
    """Return the types of a function's *arguments*, ``name type, …``."""
    return ", ".join(one.split()[-1] for one in arguments.split(",") if one.strip())
