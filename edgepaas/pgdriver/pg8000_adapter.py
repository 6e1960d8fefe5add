# SPDX-License-Identifier: Apache-2.0
"""What is used of pg8000's insides, in one place; no other module knows them.

pg8000's documented interface waits several round trips for a statement with parameters, has
no pipelining, and takes no socket that was opened under a deadline. The following is used
instead, and ``tests/unit/test_adapter_pg8000.py`` fails when a new version changes it. The
upper bound in ``pyproject.toml`` is the first version that was not tested.

- ``Connection(user, database=, password=, application_name=, startup_params=, sock=,
  ssl_context=)``: logs in on the connected socket ``sock``, over ``sock.makefile("rwb")``.
- ``execute_simple(sql).rows``: the simple query protocol, one round trip.
- ``parameter_statuses``: what the server reports at login, by name.
- ``autocommit``: settable; whether the driver sends no BEGIN. Documented, and used as it is.
- ``_sock.write``, ``_sock.flush``: bytes to the server.
- ``handle_messages(context)``: reads one answer up to ReadyForQuery into the attributes of
  ``context`` (:class:`Answer`), raises ``context.error``.
- ``message_types``: the handler of each message code, called with (data, context).
- ``py_types`` and ``converters.make_param``: a Python value as PostgreSQL's text.
- Errors: what the server said is the first argument, a dict of the fields by their codes;
  the link's errors are known by their text.

Imports pg8000 where it is needed, so that a process that never connects does not load it.
"""

import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

#: COMMAND_COMPLETE, by which a handler is found in ``message_types``.
_COMMAND_COMPLETE = b"C"

#: pg8000 uses InterfaceError for its caller's mistakes as well; these are the link's.
_LOST = re.compile(r"network error|communication error|connection is closed|create a connection")
_PASSWORD_WANTED = "requesting"  # noqa: S105 - a word in an error's text
_METHOD_UNKNOWN = "Authentication method"


class Answer(ABC):
    """What pg8000's message handlers fill; one for all statements of a pipeline.

    ``rows`` are those of the statement whose CommandComplete comes next: :meth:`complete`
    takes them. The other attributes are what the handlers expect to find.
    """

    def __init__(self) -> None:
        self.rows: list[list[Any]] | None = None
        self.row_count = -1
        self.columns: list[dict[str, Any]] | None = None
        self.input_funcs: list[Any] = []
        self.stream = None
        self.statement = ""
        self.error: Exception | None = None

    @abstractmethod
    def complete(self, tag: str) -> None:
        """A statement is done; *tag* is the server's, such as ``INSERT 0 5``."""


def load_driver() -> Any:
    """Import pg8000 and return it."""
    import pg8000

    return pg8000


def log_in(
    sock: socket.socket,
    *,
    user: str,
    database: str,
    password: str | None,
    application_name: str,
    options: str | None,
) -> Any:
    """Return a ``pg8000.Connection`` over the connected *sock*; raises what pg8000 raises.

    The socket is the connection's attribute ``link`` from then on.
    """
    connection = load_driver().Connection(
        user,
        database=database,
        password=password,
        application_name=application_name,
        startup_params={"options": options} if options else None,
        sock=sock,
        ssl_context=False,  # TLS is done, strictly, by ourselves
    )
    connection.link = sock
    return connection


def simple_query(connection: Any, sql: str) -> list[list[Any]]:
    """Run *sql* by the simple query protocol, in one round trip; return its rows.

    Several statements may stand in it, and their rows come one after the other. Values are
    a part of the text. Raises what pg8000 raises.
    """
    rows: list[list[Any]] | None = connection.execute_simple(sql).rows
    return rows or []


def server_version(connection: Any) -> str:
    """Return the server's version as it reports it at login, e.g. ``16.4 (Debian 16.4-1)``."""
    return str(connection.parameter_statuses.get("server_version", ""))


def send(connection: Any, messages: bytes | bytearray) -> None:
    """Send *messages* of the protocol; raises OSError and what the socket's file raises."""
    connection._sock.write(messages)
    connection._sock.flush()


def receive(connection: Any, answer: Answer) -> None:
    """Read one answer of the server, to its ReadyForQuery, into *answer*; raises its error."""
    connection.handle_messages(answer)


def report_completions(connection: Any) -> None:
    """Have each CommandComplete of an :class:`Answer` reported to it; other answers as ever."""
    original = connection.message_types[_COMMAND_COMPLETE]

    def handle(data: bytes, context: Any) -> None:
        if isinstance(context, Answer):
            context.complete(data[:-1].decode("ascii"))
        else:
            original(data, context)

    connection.message_types[_COMMAND_COMPLETE] = handle


def encoded(connection: Any, values: Sequence[Any]) -> list[bytes | None]:
    """Return *values* as PostgreSQL's text, UTF-8; None for NULL. Bytes stand for themselves.

    Raises UnicodeEncodeError for a lone surrogate.
    """
    from pg8000.converters import make_param

    known = connection.py_types
    found: list[bytes | None] = []
    for value in values:
        text = value if isinstance(value, bytes) else make_param(known, value)
        found.append(text.encode("utf-8") if isinstance(text, str) else text)
    return found


def server_fields(error: BaseException) -> dict[str, Any] | None:
    """Return the fields of the server's ErrorResponse, by their codes; None for another error.

    https://www.postgresql.org/docs/current/protocol-error-fields.html: C is the SQLSTATE, M
    the message.
    """
    fields = error.args[0] if error.args else None
    return fields if isinstance(fields, dict) else None


def is_lost_link(error: BaseException) -> bool:
    """Whether *error* itself is pg8000's, or its socket's, for a connection that is gone."""
    if is_driver_error(error) and _LOST.search(str(error)):
        return True
    # What the socket's file object raises once the socket was shut down.
    return isinstance(error, ValueError) and "closed file" in str(error)


def is_driver_error(error: BaseException) -> bool:
    """Whether *error* is of a class of pg8000's; without importing it."""
    return any(kind.__module__.startswith("pg8000") for kind in type(error).__mro__)


def wants_password(error: BaseException, *, given: bool) -> bool:
    """Whether a login failed since the server asked for a password and none was *given*.

    Where SCRAM asks for one, pg8000 stumbles over its absence with an AttributeError.
    """
    return _PASSWORD_WANTED in str(error) or (not given and isinstance(error, AttributeError))


def cannot_authenticate(error: BaseException) -> bool:
    """Whether the server wants a way of logging in that pg8000 does not know."""
    return _METHOD_UNKNOWN in str(error) or type(error).__module__.startswith("scramp")
