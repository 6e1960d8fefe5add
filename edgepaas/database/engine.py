# SPDX-License-Identifier: Apache-2.0
"""SQLAlchemy's engine, made alike for both databases: errors, JSON, and lists of rows."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext

from edgepaas.database.failures import is_schema_change
from edgepaas.database.types import dump_json
from edgepaas.errors import DatabaseError, DatabaseUnavailable

#: Without it the row count of a batched insert would be that of its last statement.
_EXECUTION_OPTIONS = {"preserve_rowcount": True}


def new_engine(
    url: str,
    translate: Callable[[BaseException], DatabaseError | None],
    *,
    notify: Callable[[BaseException, DatabaseError], None],
    **options: Any,
) -> Engine:
    """Return an engine for *url* that raises what *translate* makes of a driver's error.

    *translate* returns None for an error to be raised as it is; *notify* gets the original
    and the result of each other one. *options* are those of ``create_engine``. A list of rows
    travels as multi-row INSERTs, also when nothing is returned: one statement a row costs
    PostgreSQL a round trip (the driver does not pipeline) and SQLite's writer a fight for the
    interpreter's lock.
    """
    engine = create_engine(
        url,
        json_serializer=dump_json,
        # A statement's values are people's data: they have no place in an error or a log.
        hide_parameters=True,
        execution_options=_EXECUTION_OPTIONS,
        **options,
    )
    engine.dialect.use_insertmanyvalues_wo_returning = True

    def handle(context: ExceptionContext) -> BaseException | None:
        original = context.original_exception
        error = translate(original)
        if error is None:
            return None
        if isinstance(error, DatabaseUnavailable):
            # The connection is dropped, and with it every idle one of the pool: a driver's
            # own idea of what is lost misses a bare OSError.
            context.is_disconnect = not is_schema_change(original)
        notify(original, error)
        return error

    event.listen(engine, "handle_error", handle, retval=True)
    return engine
