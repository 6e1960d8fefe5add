# SPDX-License-Identifier: Apache-2.0
"""SQLAlchemy's engine, made alike for both databases: errors, JSON, lists of rows in and out."""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Dialect, Engine, Select, create_engine, event
from sqlalchemy.engine import ExceptionContext

from edgepaas.database.failures import is_schema_change
from edgepaas.database.types import dump_json
from edgepaas.errors import DatabaseError, DatabaseUnavailable

#: Makes a statement's positional parameters from those by name.
Binder = Callable[[Mapping[str, Any]], tuple[Any, ...]]

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
    PostgreSQL a plan and an answer for each, and SQLite's writer a fight for the interpreter's
    lock.
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


class PlainSelect:
    """For ``Database.fetch``: *statement*, whose values are ``bindparam(name, type_=…)``.

    Building a statement, looking its text up and converting each value of each row costs ten
    times what the question itself does. The parameters pass through their columns' types; the
    rows are plain tuples, of what the driver returned: on SQLite UUIDs, moments and documents
    are text and truths are 0 or 1, on PostgreSQL they are Python's values. The encoder of
    :func:`edgepaas.app.api.compile_encoder` writes both. For any thread.
    """

    def __init__(self, statement: Select[Any]) -> None:
        self._statement = statement
        self._compiled: dict[str, tuple[str, Binder]] = {}

    def on(self, dialect: Dialect) -> tuple[str, Binder]:
        """Return the text for *dialect*, and what makes its positional parameters."""
        found = self._compiled.get(dialect.name)
        if found is None:
            found = self._compiled[dialect.name] = self._compile(dialect)
        return found

    def _compile(self, dialect: Dialect) -> tuple[str, Binder]:
        compiled: Any = self._statement.compile(dialect=dialect)
        # A value that stands in the statement itself is used where none of its name is given.
        positions = [
            (name, one.effective_value, one.type.dialect_impl(dialect).bind_processor(dialect))
            for name in compiled.positiontup or ()
            for one in (compiled.binds[name],)
        ]

        def bind(parameters: Mapping[str, Any]) -> tuple[Any, ...]:
            given = parameters.get
            return tuple(
                given(name, own) if process is None else process(given(name, own))
                for name, own, process in positions
            )

        return str(compiled), bind
