# SPDX-License-Identifier: Apache-2.0
"""The other end of a connection that speaks PostgreSQL's protocol from a script."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from edgepaas.pgdriver import pg8000_adapter as adapter
from edgepaas.pgdriver.flights import FlightConnection

READY = b"Z", b"I"


def message(code: bytes, body: bytes = b"") -> bytes:
    """A message with its length."""
    return code + struct.pack("!i", len(body) + 4) + body


def error(code: str, text: str) -> bytes:
    """An ErrorResponse with that SQLSTATE."""
    return message(b"E", f"SERROR\0VERROR\0C{code}\0M{text}\0\0".encode())


def columns(*names: str) -> bytes:
    """A RowDescription; each column is text."""
    fields = b"".join(
        name.encode() + b"\0" + struct.pack("!ihihih", 0, 0, 25, -1, -1, 0) for name in names
    )
    return message(b"T", struct.pack("!H", len(names)) + fields)


def row(*values: str | None) -> bytes:
    """A DataRow."""
    body = struct.pack("!H", len(values))
    for value in values:
        data = None if value is None else value.encode()
        body += struct.pack("!i", -1 if data is None else len(data)) + (data or b"")
    return message(b"D", body)


def done(tag: str) -> bytes:
    """A CommandComplete."""
    return message(b"C", tag.encode() + b"\0")


def statement(tag: str, *rows: bytes, names: Sequence[str] = ()) -> bytes:
    """The answer to a statement that was parsed, bound, described and run."""
    described = columns(*names) if names else message(b"n")
    return message(b"1") + message(b"2") + described + b"".join(rows) + done(tag)


#: The answer to BEGIN, COMMIT and ROLLBACK, which are not described.
BEGUN = message(b"1") + message(b"2") + done("BEGIN")
COMMITTED = message(b"1") + message(b"2") + done("COMMIT")
ROLLED_BACK = message(b"1") + message(b"2") + done("ROLLBACK")


def ready(status: bytes = b"I") -> bytes:
    """ReadyForQuery; *status*: I idle, T in a transaction, E in a failed one."""
    return message(b"Z", status)


LOGGED_IN = (
    message(b"R", struct.pack("!i", 0))
    + message(b"S", b"server_version\x0016.4 (Debian)\0")
    + message(b"S", b"client_encoding\0UTF8\0")
    + message(*READY)
)


class Server:
    """The other end of a socket: gives one of *answers* for each message that ends a turn."""

    def __init__(self, answers: Sequence[bytes]) -> None:
        self.near, self._far = socket.socketpair()
        self._answers = list(answers)
        #: Whether it closes the connection after the last answer, and not at the next question.
        self.ends_after_last = False
        self.received: list[tuple[bytes, bytes]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def codes(self) -> str:
        """The codes of all messages after the login."""
        return b"".join(code for code, _ in self.received[1:]).decode("ascii")

    def close(self) -> None:
        """End it; its thread is gone afterwards."""
        with contextlib.suppress(OSError):  # the driver may have closed it
            self.near.shutdown(socket.SHUT_RDWR)  # its file object keeps the socket open
        self.near.close()
        self._far.close()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with self._far.makefile("rb") as file:
            try:
                (size,) = struct.unpack("!i", file.read(4))
                self.received.append((b"startup", file.read(size - 4)))
                self._answer()
                while head := file.read(5):
                    body = file.read(struct.unpack("!i", head[1:])[0] - 4)
                    self.received.append((head[:1], body))
                    if head[:1] in b"QSp":
                        self._answer()
            except (OSError, struct.error, ValueError):
                return  # the test is over

    def _answer(self) -> None:
        if self._answers:
            self._far.sendall(self._answers.pop(0))
            if self._answers or not self.ends_after_last:
                return
        self._far.shutdown(socket.SHUT_RDWR)


@contextmanager
def connected(
    *answers: bytes, password: str | None = None
) -> Iterator[tuple[FlightConnection, Server]]:
    server = Server(answers)
    try:
        driver = adapter.log_in(
            server.near,
            user="edgepaas",
            database="hub",
            password=password,
            application_name="contract",
            options="-c x=1",
        )
        yield FlightConnection(driver), server
    finally:
        server.close()
