# SPDX-License-Identifier: Apache-2.0
"""The messages that a client sends, as bytes (PostgreSQL manual, 55.7 "Message Formats")."""

import struct
from collections.abc import Sequence

_INT = struct.Struct("!i")
_NULL = _INT.pack(-1)
_BIND_HEAD = struct.Struct("!H")
_PARSE_HEAD = struct.Struct("!ci")

EXECUTE = b"E" + _INT.pack(9) + b"\0" + _INT.pack(0)
DESCRIBE = b"D" + _INT.pack(6) + b"P\0"
SYNC = b"S" + _INT.pack(4)
FLUSH = b"H" + _INT.pack(4)
COPY_DONE = b"c" + _INT.pack(4)


def message(code: bytes, body: bytes) -> bytes:
    """Return the message *code* with *body*."""
    return code + _INT.pack(len(body) + 4) + body


def query(text: bytes) -> bytes:
    """Return a simple query, which may hold several statements; it needs no Sync."""
    return message(b"Q", text + b"\0")


def parse(text: bytes, *, name: bytes = b"", types: Sequence[int] = ()) -> bytes:
    """Return a Parse; *types* are the OIDs of the first parameters, 0 where the server infers."""
    oids = b"".join(_INT.pack(oid) for oid in types)
    return message(b"P", name + b"\0" + text + b"\0" + _BIND_HEAD.pack(len(types)) + oids)


def bind(parameters: Sequence[bytes | None], *, name: bytes = b"") -> bytes:
    """Return a Bind to the unnamed portal; *parameters* are text, None is NULL."""
    parts = [b"\0", name, b"\0\0\0", _BIND_HEAD.pack(len(parameters))]
    for data in parameters:
        if data is None:
            parts.append(_NULL)
        else:
            parts.append(_INT.pack(len(data)))
            parts.append(data)
    parts.append(b"\0\0")
    body = b"".join(parts)
    return _PARSE_HEAD.pack(b"B", len(body) + 4) + body


def statement(
    text: bytes, parameters: Sequence[bytes | None] = (), types: Sequence[int] = ()
) -> bytes:
    """Return the messages that run *text* once, unnamed, and describe its rows."""
    return parse(text, types=types) + bind(parameters) + DESCRIBE + EXECUTE


def command(text: bytes) -> bytes:
    """Return the messages that run *text*, which has neither parameters nor rows."""
    return parse(text) + bind(()) + EXECUTE


def close_statement(name: bytes) -> bytes:
    """Return the Close of a prepared statement; closing one that is not there is no error."""
    return message(b"C", b"S" + name + b"\0")


def copy_fail(reason: bytes) -> bytes:
    """Return what ends a COPY from the client with an error."""
    return message(b"f", reason + b"\0")


#: Answered at once, whatever comes after it: there is a server at the other end.
PROOF = message(b"C", b"P\0") + FLUSH
BEGIN = command(b"BEGIN")
COMMIT = command(b"COMMIT")
ROLLBACK = command(b"ROLLBACK")
