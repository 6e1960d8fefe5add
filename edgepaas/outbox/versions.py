# SPDX-License-Identifier: Apache-2.0
"""The version of the outbox's tables: older ones are migrated, unknown ones are left alone.

``outbox_state.version`` names the release whose tables a file has. An older version is brought
to the present one in one transaction, when the file is opened for capture or for delivery: it
gets the columns that it lacks, with their defaults, and whatever else ``_MIGRATIONS`` has for it.

A newer version is not understood, and its rows must not be lost: nothing is written to its
tables, nothing is read from them to be sent, and the file is not set aside, since its unsent
rows lie in it. It serves: the triggers in it are the newer release's, and capture what is
written as that release does. What is refused is reported with :attr:`UnknownOutbox`'s message.
A release that changes what ``seq``, ``confirmed_seq`` or ``fence`` mean has to rename them.
"""

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, Final

from edgepaas.database.reserved_names import STATE
from edgepaas.errors import EdgePaaSError
from edgepaas.outbox import tables
from edgepaas.outbox.tables import quoted

#: What leads from a version to the next one, beyond columns that are missing; called inside
#: the transaction of the whole migration.
Migration = Callable[[sqlite3.Connection], None]
_MIGRATIONS: Final[dict[int, Migration]] = {}


class UnknownOutbox(EdgePaaSError):
    """The outbox of a file has a version that this build does not know; its rows are kept."""


def problem(connection: sqlite3.Connection, schema: str = "main") -> str:
    """Return why the outbox in *schema* cannot be used by this build; empty when it can.

    An older version is none: :func:`bring_to_current` migrates it. Raises sqlite3.Error.
    """
    version = _stored(connection, schema)
    return "" if version is None else _problem_of(version)


def _problem_of(version: Any) -> str:
    if _is_number(version) and 0 <= version <= tables.VERSION:
        return ""
    return (
        f"its outbox ({STATE}) is of version {version!r:.60}, and this build knows "
        f"{tables.VERSION}: its rows are kept as they are and wait; install the release that "
        f"wrote it, or a newer one, which sends them"
    )


def require_known(connection: sqlite3.Connection, schema: str = "main") -> None:
    """Raise UnknownOutbox where the outbox in *schema* cannot be used; raises sqlite3.Error."""
    if found := problem(connection, schema):
        raise UnknownOutbox(found)


def require_known_version(version: Any) -> None:
    """Raise UnknownOutbox where *version*, found in a file, is none that this build knows."""
    if found := _problem_of(version):
        raise UnknownOutbox(found)


def bring_to_current(connection: sqlite3.Connection) -> bool:
    """Migrate the tables of an older outbox; whether there was anything to do.

    One transaction, of its own unless one is open, and none where the tables are current or
    missing. Raises UnknownOutbox, sqlite3.Error; nothing is changed then.
    """
    require_known(connection)
    if _is_current(connection):
        return False
    with tables.transaction(connection):
        version = _stored(connection)
        _add_missing_columns(connection)
        if _is_number(version):
            for number in range(version, tables.VERSION):
                migrate = _MIGRATIONS.get(number)
                if migrate is not None:
                    migrate(connection)
        tables.create(connection)
        connection.execute(f"UPDATE {STATE} SET version = ?", (tables.VERSION,))  # noqa: S608
    return True


def _stored(connection: sqlite3.Connection, schema: str = "main") -> Any:
    """Return the version that the file names; None without an outbox, or without its state.

    The state without the column is of no release: "missing".
    """
    columns = _columns(connection, schema).get(STATE)
    if columns is None:
        return None
    if "version" not in columns:
        return "missing"
    row = connection.execute(f"SELECT version FROM {schema}.{STATE}").fetchone()  # noqa: S608
    return None if row is None else row[0]


def _is_number(version: Any) -> bool:
    return isinstance(version, int) and not isinstance(version, bool)


def _is_current(connection: sqlite3.Connection) -> bool:
    version = _stored(connection)
    return (version is None or version == tables.VERSION) and not _missing(connection)


def _add_missing_columns(connection: sqlite3.Connection) -> None:
    for table, columns in _missing(connection).items():
        for definition in columns:
            connection.execute(f"ALTER TABLE {quoted(table)} ADD COLUMN {definition}")


def _missing(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Return by table the definitions of the columns that it lacks; a table that is missing not."""
    present = _columns(connection)
    with closing(sqlite3.connect(":memory:")) as model:
        tables.create(model)
        wanted = _columns(model)
    found: dict[str, list[str]] = {}
    for table, columns in wanted.items():
        there = present.get(table, columns)
        if lacking := [text for name, text in columns.items() if name not in there]:
            found[table] = lacking
    return found


def _columns(connection: sqlite3.Connection, schema: str = "main") -> Mapping[str, dict[str, str]]:
    """Return by name the columns of each of the outbox's tables in the file, as definitions."""
    found: dict[str, dict[str, str]] = {}
    for table in tables.NAMES:
        rows = connection.execute(
            'SELECT name, type, "notnull", dflt_value FROM pragma_table_info(?, ?)', (table, schema)
        )
        columns = {
            str(name): f"{quoted(name)} {kind}{' NOT NULL' if required else ''}"
            f"{'' if default is None else f' DEFAULT {default}'}"
            for name, kind, required, default in rows
        }
        if columns:
            found[table] = columns
    return found
