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

from edgepaas.pgdriver import pg8000_adapter
from edgepaas.pgdriver.pg8000_adapter import Answer, report_completions

#: A statement and its parameters: text, encoded text, numbers, None.
Statement = tuple[str, Sequence[Any]]

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


class _Answers(Answer):
    """The results of a pipeline's statements, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Result] = []

    def complete(self, tag: str) -> None:
        self.results.append(Result(tag, self.rows or []))
        self.rows = None


class Pipeline:
    """Sends statements over *connection*, one of :func:`edgepaas.pgdriver.connection.connect`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        report_completions(connection)

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
        pg8000_adapter.send(self._connection, messages)

    def receive(self) -> list[Result]:
        """Return the results of the earliest statements sent whose answer was not read yet.

        Raises what the driver raises; the connection is then ready for the next answer.
        """
        answers = _Answers()
        pg8000_adapter.receive(self._connection, answers)
        return answers.results

    def _bound(self, parameters: Sequence[Any]) -> bytes:
        values = bytearray(b"\0\0\0\0")  # unnamed portal and statement, all formats text
        values += struct.pack("!H", len(parameters))
        for data in pg8000_adapter.encoded(self._connection, parameters):
            if data is None:
                values += _NULL
                continue
            values += struct.pack("!i", len(data))
            values += data
        values += b"\0\0"
        return bytes(values)


def _add(messages: bytearray, code: bytes, body: bytes) -> None:
    messages += code
    messages += struct.pack("!i", len(body) + 4)
    messages += body
