# SPDX-License-Identifier: Apache-2.0
"""The one place where a driver's errors become the three that callers know."""

import logging
import sqlite3
from typing import NamedTuple

from edgepaas.database.reserved_names import CAPTURE, FENCED
from edgepaas.errors import (
    DatabaseBusy,
    DatabaseError,
    DatabaseFull,
    DatabaseRefused,
    DatabaseUnavailable,
    ValueRefused,
)
from edgepaas.pgdriver.failures import (
    ErrorClass,
    error_class,
    find_cause,
    is_lost,
    server_message,
    sqlstate,
)
from edgepaas.pgdriver.flights.prepared import is_stale

logger = logging.getLogger("edgepaas.database")

#: Primary result codes (https://sqlite.org/rescode.html) by what a caller can do about them.
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_LOST = _DAMAGED | {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM}

#: 53100 disk_full; the rest of class 53 is a server short of something for the moment.
_POSTGRES_FULL = "53100"
#: undefined_table, undefined_column, invalid_schema_name: what was there when the service
#: started was taken away.
_POSTGRES_LACKING = frozenset({"42P01", "42703", "3F000"})
#: undefined_function: of capture on the hub, which the box makes again.
_NO_FUNCTION = "42883"

#: What is refused since something that is stored stands against it: unique_violation,
#: foreign_key_violation, exclusion_violation; and their like in SQLite.
_POSTGRES_CONFLICTS = frozenset({"23503", "23505", "23P01"})
_SQLITE_CONFLICTS = frozenset(
    {
        sqlite3.SQLITE_CONSTRAINT_UNIQUE,
        sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
        sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY,
    }
)
#: Too big for a statement, or a value of a type that the column does not take.
_SQLITE_INVALID = frozenset({sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH})
#: insufficient_privilege: a policy of row-level security refused the row.
_POSTGRES_POLICY = "42501"


class RefusedValues(NamedTuple):
    """Why the values of one request cannot be stored, in one line of the database."""

    #: Whether they contradict what is stored; else they are wrong by themselves.
    conflict: bool
    text: str


def refused_values(error: BaseException) -> RefusedValues | None:
    """Return why the values of a write were refused; None where they are not to blame.

    For an error that ``Database.write`` let through: what the server is at fault for is a
    DatabaseError by then.
    """
    state = sqlstate(error)
    if state is not None:
        if state != _POSTGRES_POLICY and error_class(error) is not ErrorClass.ROW:
            return None
        return RefusedValues(state in _POSTGRES_CONFLICTS, server_message(error))
    found = find_cause(error, sqlite3.Error)
    if found is None:
        return None
    primary = primary_code(found)
    if primary != sqlite3.SQLITE_CONSTRAINT and primary not in _SQLITE_INVALID:
        return None
    return RefusedValues(found.sqlite_errorcode in _SQLITE_CONFLICTS, str(found))


def refused_by_type(error: BaseException) -> ValueRefused | None:
    """Return why a column's type refused a value of a statement; None where none did.

    SQLAlchemy's own Enum raises a LookupError.
    """
    found = find_cause(error, ValueRefused)
    if found is not None:
        return found
    original = getattr(error, "orig", None)
    return ValueRefused(str(original)) if type(original) is LookupError else None


def primary_code(error: BaseException) -> int:
    """Return SQLite's primary result code, 0 when *error* is not SQLite's."""
    # Python itself raises sqlite3 errors without a code, for a caller's mistakes.
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def is_damaged(error: BaseException) -> bool:
    """Whether SQLite found the file to be corrupt, or no database at all."""
    return primary_code(error) in _DAMAGED


def is_busy(error: BaseException) -> bool:
    """Whether another connection holds SQLite's lock."""
    return primary_code(error) in _BUSY


def is_full(error: BaseException) -> bool:
    """Whether SQLite found no room on the disk."""
    return primary_code(error) == sqlite3.SQLITE_FULL


def translate_sqlite(  # noqa: PLR0911 - one for each cause
    error: BaseException, *, writing: bool
) -> DatabaseError | None:
    """Return what an SQLite error means to a caller; None for one that it caused itself.

    A refused write on a connection that is not *writing* is the caller's mistake.
    """
    code = primary_code(error)
    if isinstance(error, OverflowError):  # the driver's
        return DatabaseRefused("a whole number has more than 64 bits")
    if code == sqlite3.SQLITE_FULL:
        return DatabaseFull(f"the disk has no room for the database ({error}); nothing was written")
    if code == sqlite3.SQLITE_CONSTRAINT and FENCED in str(error):
        return DatabaseBusy(f"{FENCED.partition(': ')[2]}; nothing was written")
    if code in _BUSY:
        return DatabaseBusy(
            f"another process kept the database locked ({error}); nothing was written"
        )
    if code in _DAMAGED:
        return DatabaseUnavailable(
            f"the database file is damaged ({error}): 'edgepaas schema' sets it aside and "
            f"opens a fresh one"
        )
    if code in _LOST or (code == sqlite3.SQLITE_READONLY and writing):
        return DatabaseUnavailable(
            f"the database file cannot be used ({error}): check the disk ('edgepaas doctor')"
        )
    return None


def translate_postgres(error: BaseException) -> DatabaseError | None:
    """Return what an error on the way to PostgreSQL means; None for a statement's own."""
    if isinstance(error, DatabaseError):
        return error
    if isinstance(error, UnicodeEncodeError):
        # The driver encodes text as the server's encoding, which may know few characters.
        character = error.object[error.start]
        return DatabaseRefused(
            f"PostgreSQL's encoding ({error.encoding}) has no character U+{ord(character):04X}"
        )
    if is_lost(error):
        said = server_message(error)
        return DatabaseUnavailable(f"the connection to PostgreSQL was lost: {said}")
    return _translate_answer(error)


def _translate_answer(error: BaseException) -> DatabaseError | None:
    """Return what the server's answer to a statement means, on a connection that is good."""
    state = sqlstate(error)
    if state == _POSTGRES_FULL:
        return DatabaseFull(f"PostgreSQL has no room left: {server_message(error)}")
    if is_schema_change(error):
        return DatabaseUnavailable(
            f"PostgreSQL has no such table, column or schema ({server_message(error)}): "
            f"'edgepaas verify' says whether its schema fits"
        )
    if state == _NO_FUNCTION and CAPTURE in server_message(error):
        return DatabaseBusy(
            f"PostgreSQL does not capture changes for the moment: {server_message(error)}"
        )
    if error_class(error) is ErrorClass.LINK and state is not None and not is_retryable(error):
        return DatabaseBusy(f"PostgreSQL refused the work for now: {server_message(error)}")
    return None


def is_retryable(error: BaseException) -> bool:
    """Whether PostgreSQL asks for the transaction once more.

    After a serialization failure, a deadlock, or where a statement that it kept prepared does
    not fit its tables any more.
    """
    return sqlstate(error) in ("40001", "40P01") or is_stale(error)


def is_schema_change(error: BaseException) -> bool:
    """Whether PostgreSQL has a table, column or schema no longer; the connection is good."""
    return sqlstate(error) in _POSTGRES_LACKING
