# SPDX-License-Identifier: Apache-2.0
"""Several statements in one round trip over a connection of pg8000.

The driver's own ways wait two or three times for each statement that has parameters, and
leave a prepared statement behind between them: over a link of 200 ms a batch would take
seconds, and PgBouncer, where it pools transactions, may hand each part to another server
(https://www.pgbouncer.org/features.html). Here Parse, Bind, Describe and Execute of every
statement go out together, unnamed, under one Sync (PostgreSQL manual, 55.2.3 "Extended
Query", 55.2.4 "Pipelining"). After an error the server skips the rest of them.

The server's answers may be read later, when more was sent: together they must be small, or
each side waits for the other to read.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: A statement and its parameters: text, encoded text, numbers, None.
Statement = tuple[str, Sequence[Any]]

_COMPLETE = b"C"
_DESCRIBE_PORTAL = b"D" + struct.pack("!i", 6) + b"P\0"
_EXECUTE = b"E" + struct.pack("!i", 9) + b"\0" + struct.pack("!i", 0)
_SYNC = b"S" + struct.pack("!i", 4)
_NULL = struct.pack("!i", -1)


@dataclass(frozen=True)
class Result:
    """What one statement gave: its command tag (``INSERT 0 5``) and its rows."""

    tag: str
    rows: list[list[Any]]

    @property
    def count(self) -> int:
        """The number of rows that the statement says it has handled."""
        word = self.tag.rpartition(" ")[2]
        return int(word) if word.isdigit() else 0


class _Answers:
    """What pg8000's message handlers fill, with a result for each statement."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.error: Exception | None = None
        self.rows: list[list[Any]] | None = None
        self.row_count = -1
        self.columns: list[dict[str, Any]] | None = None
        self.input_funcs: list[Any] = []
        self.stream = None
        self.statement = ""

    def complete(self, data: bytes) -> None:
        self.results.append(Result(data[:-1].decode("ascii"), self.rows or []))
        self.rows = None


class Pipeline:
    """Sends statements over *connection* (a ``pg8000.Connection``)."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        plain = connection.message_types[_COMPLETE]

        def complete(data: bytes, context: Any) -> None:
            if isinstance(context, _Answers):
                context.complete(data)
            else:
                plain(data, context)

        connection.message_types[_COMPLETE] = complete

    def send(self, statements: Sequence[Statement]) -> None:
        """Send *statements*, to be run in order; outside a transaction all of them are one.

        What this raises, UnicodeEncodeError among it, it raises before anything is sent,
        but for the link's own errors.
        """
        messages = bytearray()
        for sql, parameters in statements:
            text = sql.encode("utf-8")
            _add(messages, b"P", b"\0" + text + b"\0\0\0")
            _add(messages, b"B", self._bound(parameters))
            messages += _DESCRIBE_PORTAL
            messages += _EXECUTE
        messages += _SYNC
        self._connection._sock.write(messages)
        self._connection._sock.flush()

    def receive(self) -> list[Result]:
        """Return the results of the earliest statements sent whose answer was not read yet.

        Raises what the driver raises; the connection is then ready for the next answer.
        """
        answers = _Answers()
        self._connection.handle_messages(answers)
        return answers.results

    def _bound(self, parameters: Sequence[Any]) -> bytes:
        from pg8000.converters import make_param

        values = bytearray(b"\0\0\0\0")  # unnamed portal and statement, all formats text
        values += struct.pack("!H", len(parameters))
        for parameter in parameters:
            value = parameter
            if not isinstance(value, bytes):
                value = make_param(self._connection.py_types, value)
            if value is None:
                values += _NULL
                continue
            data = value if isinstance(value, bytes) else value.encode("utf-8")
            values += struct.pack("!i", len(data))
            values += data
        values += b"\0\0"
        return bytes(values)


def _add(messages: bytearray, code: bytes, body: bytes) -> None:
    messages += code
    messages += struct.pack("!i", len(body) + 4)
    messages += body
