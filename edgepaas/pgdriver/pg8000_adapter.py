# SPDX-License-Identifier: Apache-2.0
"""What is used of pg8000's insides, in one place; no other module knows them.

pg8000's documented interface waits several round trips for a statement with parameters, has
no pipelining, and takes no socket that was opened under a deadline. So the driver logs in, and
:mod:`edgepaas.pgdriver.flights` speaks from then on. The following is used, and
``tests/unit/test_adapter_pg8000.py`` fails when a new version changes it. The upper bound in
``pyproject.toml`` is the first version that was not tested.

- ``Connection(user, database=, password=, application_name=, startup_params=, sock=,
  ssl_context=)``: logs in on the connected socket ``sock``, over ``sock.makefile("rwb")``.
- ``parameter_statuses``: what the server reports at login, by name.
- ``_sock.read1``: the bytes that the server sends; after the login nothing else reads them.
- ``message_types``: the handler of each message code, called with (data, context); used for
  notices, notifications and statuses, which fill ``notices``, ``notifications`` and
  ``parameter_statuses``.
- ``_client_encoding``: what the status ``client_encoding`` is by Python's name.
- ``_backend_key_data``: the body of BackendKeyData.
- ``pg_types``: the decoder of each type's OID; ``string_in`` where none is known.
- ``py_types`` and ``converters.make_param``: a Python value as PostgreSQL's text.
- ``dbapi.convert_paramstyle("format", sql, args)``: ``$1`` for ``%s``, outside of literals.
- ``converters.PY_PG``: the OID of a Python type.
- ``close()``: sends Terminate and closes the socket; a second one raises InterfaceError.
- Errors: what the server said is the first argument, a dict of the fields by their codes;
  the link's errors are known by their text.

Imports pg8000 where it is needed, so that a process that never connects does not load it.
"""

import re
import select
import socket
import struct
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

#: NoticeResponse, NotificationResponse, ParameterStatus: they may come at any time.
_ASYNCHRONOUS = (b"N", b"A", b"S")

#: pg8000 uses InterfaceError for its caller's mistakes as well; these are the link's.
_LOST = re.compile(r"network error|communication error|connection is closed|create a connection")
_PASSWORD_WANTED = "requesting"  # noqa: S105 - a word in an error's text
#: The number that stands for a protocol version in a CancelRequest.
_CANCEL_REQUEST = 80877102
#: Characters of a statement's text that is remembered; of longer ones only the last few are.
_LONGEST_KEPT = 8192
_METHOD_UNKNOWN = "Authentication method"


def load_driver() -> Any:
    """Import pg8000 and return it."""
    import pg8000

    return pg8000


def log_in(
    sock: Any,
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
    rows: list[list[Any]] = connection.execute_simple(sql).rows
    return rows


def server_version(connection: Any) -> str:
    """Return the server's version as it reports it at login, e.g. ``16.4 (Debian 16.4-1)``."""
    return str(connection.parameter_statuses.get("server_version", ""))


def read_some(driver: Any, most: int) -> bytes:
    """Return what the server has sent, up to *most* bytes, waiting for some; empty at its end."""
    data: bytes = driver._sock.read1(most)
    return data


def is_readable(link: socket.socket) -> bool:
    """Whether *link* has something to read now, be it its end."""
    poll = select.poll()
    poll.register(link, select.POLLIN)
    return bool(poll.poll(0))


def copy_types(source: Any, target: Any) -> None:
    """Have the driver *target* know the types that *source* knows."""
    target.py_types.update(source.py_types)
    target.pg_types.update(source.pg_types)


def parameter_status(connection: Any, name: str) -> str:
    """Return what the server reported of its setting *name* at login; empty: nothing."""
    return str(connection.parameter_statuses.get(name, ""))


def backend_pid(driver: Any) -> int:
    """Return the process id that came with the login; 0 where there was none.

    It is that of the server's process, but where a pooler has made it up.
    """
    data = driver._backend_key_data
    return int(struct.unpack_from("!i", data)[0]) if data else 0


def client_encoding(driver: Any) -> str:
    """Return the encoding of the session's text, by Python's name."""
    return str(driver._client_encoding)


def handle_message(driver: Any, code: bytes, body: bytes) -> None:
    """Have the driver note a message that belongs to no statement; ValueError: there is no such."""
    handler = driver.message_types.get(code) if code in _ASYNCHRONOUS else None
    if handler is None:
        raise ValueError(f"the server sent a message of type {code!r}")
    handler(body, None)


def decoders(driver: Any) -> Callable[[int], Callable[[str], Any] | None]:
    """Return what gives the decoder of a type's OID; None: the text is the value."""
    from pg8000.converters import string_in, timestamptz_in

    faster = {string_in: None, timestamptz_in: _moment_decoder(timestamptz_in)}
    known = driver.pg_types

    def decoder_of(oid: int) -> Callable[[str], Any] | None:
        found = known[oid]
        return faster.get(found, found)

    return decoder_of


def _moment_decoder(otherwise: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a decoder of timestamps that is ten times as fast for those of our own era."""
    parse = datetime.fromisoformat

    def decode(text: str) -> Any:
        try:
            return parse(text)
        except ValueError:
            return otherwise(text)

    return decode


def interface_error(text: str) -> Exception:
    """Return pg8000's error of the connection, not of the server."""
    error: Exception = load_driver().InterfaceError(text)
    return error


def programming_error(text: str) -> Exception:
    """Return pg8000's error of a caller."""
    error: Exception = load_driver().ProgrammingError(text)
    return error


def statement_error(body: bytes, encoding: str) -> Exception:
    """Return the error of an ErrorResponse's *body*, of the class that pg8000's cursor raises."""
    return fields_error(
        {
            part[:1].decode("ascii"): part[1:].decode(encoding, errors="replace")
            for part in body.split(b"\0")
            if part
        }
    )


def fields_error(fields: dict[str, str]) -> Exception:
    """Return the error with the server's *fields* by their codes; see :func:`server_fields`."""
    driver = load_driver()
    kind = {"28000": driver.InterfaceError, "23505": driver.IntegrityError}
    error: Exception = kind.get(fields.get("C", ""), driver.ProgrammingError)(fields)
    return error


def type_oid(size: Any) -> int:
    """Return the OID that *size*, of ``setinputsizes``, means; 0: the server infers it."""
    if isinstance(size, int):
        return max(0, size)
    from pg8000.converters import PY_PG

    return int(PY_PG.get(size, 0))


def numbered(sql: str) -> str:
    """Return *sql* with ``$1``, ``$2`` and so on in the place of each ``%s``."""
    return (_remembered if len(sql) <= _LONGEST_KEPT else _remembered_long)(sql)


def _numbered(sql: str) -> str:
    from pg8000.dbapi import convert_paramstyle

    text: str = convert_paramstyle("format", sql, ())[0]
    return text


_remembered = lru_cache(512)(_numbered)
_remembered_long = lru_cache(4)(_numbered)


def encoded(
    connection: Any, values: Sequence[Any], encoding: str = "utf-8", *, raw_bytes: bool = True
) -> list[bytes | None]:
    """Return *values* as PostgreSQL's text in *encoding*; None for NULL.

    *raw_bytes*: bytes stand for themselves; else they are a value of type bytea. Raises
    UnicodeEncodeError for a lone surrogate.
    """
    from pg8000.converters import make_param

    known = connection.py_types
    found: list[bytes | None] = []
    for value in values:
        if value is None:
            found.append(None)
        elif type(value) is str:
            found.append(value.encode(encoding))
        elif raw_bytes and isinstance(value, bytes):
            found.append(value)
        else:
            text = make_param(known, value)
            found.append(text.encode(encoding) if isinstance(text, str) else text)
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


def cancel_request(driver: Any) -> bytes:
    """Return the message that cancels what the server does for *driver*.

    It is to be sent over a connection of its own. Raises OSError where the server, or a pooler,
    gave no key at the login.
    """
    key = driver._backend_key_data
    if not key:
        raise OSError("the server gave no key for cancelling")
    return struct.pack("!ii", 8 + len(key), _CANCEL_REQUEST) + bytes(key)


def take_notices(driver: Any) -> list[dict[str, str]]:
    """Return the notices and warnings that came, by the codes of their fields, and forget them."""
    taken = [
        {code.decode("ascii"): text.decode("utf-8", "replace") for code, text in fields.items()}
        for fields in driver.notices
    ]
    driver.notices.clear()
    return taken
