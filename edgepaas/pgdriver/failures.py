# SPDX-License-Identifier: Apache-2.0
"""What an error of PostgreSQL, or of the connection to it, means.

pg8000 gives an ``InterfaceError`` for a lost connection, a ``DatabaseError`` (or one
of its DB-API children) whose first argument holds the server's fields, and lets an
``OSError`` escape when a read times out. SQLAlchemy wraps them and keeps the original
in ``.orig``. Nothing here imports either: an exception is known by its module's name,
so that a process that never spoke to PostgreSQL does not load a driver to ask.

SQLSTATE codes: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

import re
import socket
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TypeVar

from edgepaas.errors import DatabaseUnavailable
from edgepaas.pgdriver.pg8000_adapter import is_lost_link, server_fields


class Failure(StrEnum):
    """Why PostgreSQL could not be used; by a fixed name that programs can rely on."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    SILENT = "silent"
    DNS = "dns"
    TLS = "tls"
    AUTHENTICATION = "authentication"
    NO_DATABASE = "no_database"
    READ_ONLY = "read_only"
    TOO_OLD = "too_old"
    PERMISSION = "permission"
    NOT_POSTGRES = "not_postgres"
    #: It is there but takes no connection now: starting, stopping, or too many of them.
    BUSY = "busy"
    OTHER = "other"


#: Failures that another attempt cannot mend: an operator has to change something.
PERMANENT = frozenset(
    {
        Failure.TLS,
        Failure.AUTHENTICATION,
        Failure.NO_DATABASE,
        Failure.TOO_OLD,
        Failure.PERMISSION,
        Failure.NOT_POSTGRES,
    }
)


class ErrorClass(StrEnum):
    """What a writer has to do about an error that a statement got."""

    #: The link or the server: hold everything and try again.
    LINK = "link"
    #: The hub's rights or names: hold, and alert an operator.
    CONFIGURATION = "configuration"
    #: The hub's tables are not those of the sender.
    SCHEMA = "schema"
    #: This row will never be taken.
    ROW = "row"
    #: Not known: hold, and alert an operator.
    OTHER = "other"


class ConnectFailure(DatabaseUnavailable):
    """No usable connection came about; ``kind`` is the reason, the message says more."""

    def __init__(
        self, kind: Failure, message: str, *, permanent: bool | None = None, full: bool = False
    ) -> None:
        super().__init__(message)
        self.kind = kind
        #: Whether the server is there, and has no further connection to give.
        self.full = full
        #: Whether trying again within seconds is pointless.
        self.permanent = kind in PERMANENT if permanent is None else permanent


class CommitUnconfirmed(DatabaseUnavailable):
    """COMMIT was not confirmed as it was asked for: whether the work is there is unknown.

    A synchronous standby did not answer in time. The primary may have the rows, and would lose
    them with itself: the client sends them again, under the same ids.
    """


TOO_MANY_CONNECTIONS = "53300"
READ_ONLY = "25006"

_FAILURE_OF_STATE = {
    "28": Failure.AUTHENTICATION,
    "3D": Failure.NO_DATABASE,
    "25006": Failure.READ_ONLY,
    "42501": Failure.PERMISSION,
    TOO_MANY_CONNECTIONS: Failure.BUSY,
    "57P03": Failure.BUSY,
    "57P01": Failure.BUSY,
    "57P02": Failure.BUSY,
    "08P01": Failure.NOT_POSTGRES,
}

_CLASS_OF_STATE = {
    "08": ErrorClass.LINK,
    "28": ErrorClass.LINK,
    "53": ErrorClass.LINK,
    "55P03": ErrorClass.LINK,
    "57": ErrorClass.LINK,
    "58": ErrorClass.LINK,
    "40001": ErrorClass.LINK,
    "40P01": ErrorClass.LINK,
    "25006": ErrorClass.LINK,
    "25P03": ErrorClass.LINK,  # this box slept in mid-transaction
    "25P04": ErrorClass.LINK,
    "XX": ErrorClass.LINK,
    "42501": ErrorClass.CONFIGURATION,
    "3D": ErrorClass.CONFIGURATION,
    "3F": ErrorClass.CONFIGURATION,
    "42": ErrorClass.SCHEMA,
    "22": ErrorClass.ROW,
    "23": ErrorClass.ROW,
    "54": ErrorClass.ROW,
    # A trigger or a function of the hub refused it (RAISE EXCEPTION): this row, not the rest.
    "P0": ErrorClass.ROW,
}

#: The session is over, or will take no write: 08 connection, 57P0x shutdown and idle
#: session, 25P03 idle in transaction, 25006 the server has become a standby.
_LOST_STATE = re.compile(r"08...|57P0[1235]|25P03|25006")

_STATE = re.compile(r"[0-9A-Z]{5}\Z")


def sqlstate(exc: BaseException) -> str | None:
    """Return the five characters that the server gave, None when it was not the server."""
    for error in _chain(exc):
        state = (server_fields(error) or {}).get("C")
        if isinstance(state, str) and _STATE.match(state):
            return state
    return None


def server_field(exc: BaseException, code: str) -> str | None:
    """Return the field *code* of what the server said, None where it gave none.

    https://www.postgresql.org/docs/current/protocol-error-fields.html
    """
    found = ((server_fields(error) or {}).get(code) for error in _chain(exc))
    return next((value for value in found if isinstance(value, str)), None)


def server_message(exc: BaseException) -> str:
    """Return what the server said in one line, else the exception's own text."""
    for error in _chain(exc):
        message = (server_fields(error) or {}).get("M")
        if isinstance(message, str):
            return _one_line(message)
    return _one_line(str(exc)) or type(exc).__name__


def error_fields(exc: BaseException) -> Mapping[str, str]:
    """Return the fields of the server's error by their codes; empty when it was not the server.

    https://www.postgresql.org/docs/current/protocol-error-fields.html: C is the SQLSTATE, M the
    message, t the table, c the column, n the constraint, W the context, R the server's routine.
    """
    for error in _chain(exc):
        fields = server_fields(error)
        if fields and _STATE.match(str(fields.get("C"))):
            return {str(code): str(text) for code, text in fields.items()}
    return {}


T = TypeVar("T", bound=BaseException)


def find_cause(exc: BaseException, kind: type[T]) -> T | None:
    """Return the first error of *kind* among *exc* and what it was raised from."""
    return next((error for error in _chain(exc) if isinstance(error, kind)), None)


def classify(exc: BaseException) -> Failure:
    """Return why PostgreSQL could not be used, by the exception alone."""
    for error in _chain(exc):
        if isinstance(error, ConnectFailure):
            return error.kind
    state = sqlstate(exc)
    if state is not None:
        return _FAILURE_OF_STATE.get(state) or _FAILURE_OF_STATE.get(state[:2], Failure.OTHER)
    for error in _chain(exc):
        if isinstance(error, OSError):
            return _classify_os_error(error)
    return Failure.OTHER


def error_class(exc: BaseException) -> ErrorClass:
    """Return what a writer has to do about *exc*, by SQLSTATE where the server gave one."""
    state = sqlstate(exc)
    if state is not None:
        return _CLASS_OF_STATE.get(state) or _CLASS_OF_STATE.get(state[:2], ErrorClass.OTHER)
    return ErrorClass.LINK if is_lost(exc) else ErrorClass.OTHER


def is_lost(exc: BaseException) -> bool:
    """Whether the connection that raised *exc* is of no use any more.

    A server that turned read-only counts: a new connection may reach the server that
    took its place. An error of a statement (a broken constraint, a syntax error) does not.
    """
    if any(isinstance(error, ConnectFailure) for error in _chain(exc)):
        return True
    state = sqlstate(exc)
    if state is not None:
        return _LOST_STATE.fullmatch(state) is not None
    return any(isinstance(error, OSError) or is_lost_link(error) for error in _chain(exc))


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """Yield *exc*, what SQLAlchemy wrapped, and what it was raised from; each once."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [exc]
    while queue:
        error = queue.pop(0)
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        yield error
        original = getattr(error, "orig", None)
        queue.append(original if isinstance(original, BaseException) else None)
        queue.append(error.__cause__)


def _classify_os_error(error: OSError) -> Failure:
    if isinstance(error, TimeoutError):
        return Failure.SILENT
    if isinstance(error, ConnectionRefusedError):
        return Failure.REFUSED
    if isinstance(error, socket.gaierror):
        return Failure.DNS
    # ssl.SSLError is an OSError; its module need not be loaded to know it.
    if any(kind.__name__ == "SSLError" for kind in type(error).__mro__):
        return Failure.TLS
    if isinstance(error, ConnectionError):
        return Failure.OTHER
    return Failure.UNREACHABLE


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
