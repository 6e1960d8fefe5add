# SPDX-License-Identifier: Apache-2.0
"""Capture on PostgreSQL, as part of bringing it to head: the triggers of the forwarded tables."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgepaas.errors import DatabaseUnavailable
from edgepaas.outbox.hub_capture.triggers import lacking_question
from edgepaas.outbox.hub_capture.upkeep import ensure, parse_lacking
from edgepaas.pgdriver.connection import close_quietly
from edgepaas.pgdriver.failures import is_lost, server_message
from edgepaas.pgdriver.pg8000_adapter import simple_query

if TYPE_CHECKING:
    from sqlalchemy import MetaData

    from edgepaas.database import Database
    from edgepaas.database.postgresql.connector import Connector

logger = logging.getLogger("edgepaas.schema")


def capture_changes(connector: "Connector", metadata: "MetaData | None") -> str:
    """Have every change of *metadata*'s forwarded tables captured; return what was done.

    Empty where nothing was to be done. What cannot be put in place now, as in a table that is
    in use, is by the service: nothing is acknowledged that was not captured. Raises
    DatabaseUnavailable where the link is lost.
    """
    if metadata is None:
        return ""
    from edgepaas.database.model import forwarded_tables

    tables = list(forwarded_tables(metadata))
    if not tables:
        return ""
    connection = connector()
    try:
        connection.autocommit = True

        def ask(sql: str) -> Sequence[Sequence[object]]:
            rows: Sequence[Sequence[object]] = simple_query(connection, sql)
            return rows

        lacking = ensure(ask, tables)
    except Exception as error:
        said = server_message(error)
        if is_lost(error):
            raise DatabaseUnavailable(
                f"PostgreSQL: its triggers cannot be looked at: {said}"
            ) from error
        logger.warning("changes are not captured by PostgreSQL yet: %s", said)
        return (
            f"WARNING: the triggers that capture changes are not in place: {said} "
            "('edgepaas schema --sql' prints what the owner of the tables has to run)"
        )
    finally:
        close_quietly(connection)
    return "changes are captured" if lacking else ""


def not_captured_reason(database: "Database", metadata: "MetaData | None") -> str:
    """Return why changes of *metadata*'s forwarded tables are not captured; empty: they are.

    *database*: a PostgreSQL. Raises a DatabaseError.
    """
    from edgepaas.database.model import forwarded_tables

    tables = forwarded_tables(metadata)
    if not tables:
        return ""
    question = f"SELECT {lacking_question(tables)}"
    with database.read() as session:
        # pg8000 looks for its placeholders.
        row = session.connection().exec_driver_sql(question.replace("%", "%%")).one()
    lacking = parse_lacking(row[0])
    if not lacking:
        return ""
    return (
        f"{lacking.text}: 'edgepaas schema --hub' makes them, and the service does where "
        f"RUN_MIGRATIONS permits it"
    )
