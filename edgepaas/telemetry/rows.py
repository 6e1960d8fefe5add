# SPDX-License-Identifier: Apache-2.0
"""One row by its id: read, changed, deleted; each change with the record of who made it."""

import uuid
from collections.abc import Callable

from sqlalchemy import Table, delete, select, update
from sqlalchemy.orm import Session

from edgepaas.app.api import Problem
from edgepaas.app.facts import Row
from edgepaas.app.models import Database
from edgepaas.telemetry.changing.record import ChangeRecord


def get(database: Database, table: Table, identity: uuid.UUID) -> Row:
    """Return the row *identity* of *table*; Problem 404 when there is none."""
    with database.read() as session:
        return _required(session, table, identity)


def change(
    database: Database,
    table: Table,
    identity: uuid.UUID,
    changes: Callable[[Row], Row],
    record: ChangeRecord,
) -> Row:
    """Set what ``changes(stored row)`` returns and return the row as it is then.

    Problem 404 when there is none; a Problem that *changes* raises leaves it as it was.
    """

    def work(session: Session) -> Row:
        # Locked on PostgreSQL until the commit, so that two changes that fit the row
        # singly cannot make one together that does not; on SQLite writers queue anyway.
        stored = _required(session, table, identity, lock=True)
        wanted = changes(stored)
        if not wanted:
            return stored
        statement = update(table).where(table.c.id == identity).values(wanted).returning(table)
        changed = dict(session.execute(statement).mappings().one())
        record.changed(session, table, stored, changed)
        return changed

    return database.write(work)


def delete_row(database: Database, table: Table, identity: uuid.UUID, record: ChangeRecord) -> None:
    """Delete the row *identity* of *table*; Problem 404 when there is none."""

    def work(session: Session) -> None:
        statement = delete(table).where(table.c.id == identity).returning(table)
        deleted = session.execute(statement).mappings().one_or_none()
        if deleted is None:
            raise _missing(table, identity)
        record.deleted(session, table, dict(deleted))

    database.write(work)


def _required(session: Session, table: Table, identity: uuid.UUID, *, lock: bool = False) -> Row:
    statement = select(table).where(table.c.id == identity)
    if lock:
        statement = statement.with_for_update()
    row = session.execute(statement).mappings().one_or_none()
    if row is None:
        raise _missing(table, identity)
    return dict(row)


def _missing(table: Table, identity: uuid.UUID) -> Problem:
    return Problem(404, f"There is no {identity} among the {table.name}.")
