# SPDX-License-Identifier: Apache-2.0
"""The sockets that the driver logs in over: what it reads is checked, what it sends has company."""

import io
import socket
import struct
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from edgepaas.pgdriver.failures import ConnectFailure, Failure

if TYPE_CHECKING:
    import ssl

#: What a server's first answer to a startup message may be: Authentication, Error, Notice,
#: NegotiateProtocolVersion; libpq (fe-connect.c) bounds its length likewise.
_FIRST_CODES = b"REvN"
_LONGEST_FIRST = 30_000
_HEADER = 5
#: Bytes of a message by which it is known.
_LOOKED_AT = _HEADER + 6


class CheckedSocket(socket.socket):
    """A plain socket whose first answer is looked at before the driver believes its length.

    pg8000 takes any four bytes for a message's length: an HTTP server's "HTTP/1.1" would
    have it ask for a gigabyte and wait for it.
    """

    #: Called with the seconds that each answer took, while the login is under way.
    heard: Callable[[float], None] | None = None
    behind_password = b""
    sent_behind_password = False

    def makefile(self, *args: Any, **kwargs: Any) -> Any:
        """Return the buffered pair that the driver reads and writes."""
        raw = super().makefile("rwb", buffering=0)
        return io.BufferedRWPair(_FirstAnswerChecked(raw, self), _LoginWriter(raw, self))


class _FirstAnswerChecked(io.RawIOBase):
    """Reads through to *raw*; raises ConnectFailure when the first header is not PostgreSQL's."""

    def __init__(self, raw: socket.SocketIO, sock: CheckedSocket) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock
        self._header = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        began = time.monotonic()
        count = self._raw.readinto(buffer)
        if count and self._sock.heard is not None:
            self._sock.heard(time.monotonic() - began)
        if count and len(self._header) < _HEADER:
            self._header += bytes(buffer[: min(count, _HEADER - len(self._header))])
            check_first_answer(self._header)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class LoginSocket(Protocol):
    """A connected socket over which somebody logs in, in TLS or plain."""

    #: Messages to be sent right behind the password, and whether they were.
    behind_password: bytes
    sent_behind_password: bool

    def sendall(self, data: bytes, /) -> None: ...

    def settimeout(self, value: float | None, /) -> None: ...

    def detach(self) -> int: ...


class _LoginWriter(io.RawIOBase):
    """Writes to *raw*, and what is to travel with the last message of a login behind it.

    A server reads that when the login is done; it spares a round trip. Where it asks for no
    password there is no such message, and nothing is sent.
    """

    def __init__(self, raw: socket.SocketIO, sock: LoginSocket) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int | None:
        count = self._raw.write(data)
        sock = self._sock
        if sock.behind_password and count == len(data) and ends_login(bytes(data[:_LOOKED_AT])):
            sock.sendall(sock.behind_password)
            sock.behind_password, sock.sent_behind_password = b"", True
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def ends_login(message: bytes) -> bool:
    """Whether the *message* that begins so is the client's last one of a login.

    PasswordMessage or SASLResponse; SASLInitialResponse, which shares their code, begins with
    the name of the mechanism (PostgreSQL manual, 55.7 "Message Formats").
    """
    return message[:1] == b"p" and not message[_HEADER:].startswith(b"SCRAM-")


def query_message(sql: str) -> bytes:
    """Return the message of the simple query *sql*."""
    body = sql.encode() + b"\0"
    return b"Q" + struct.pack("!i", len(body) + 4) + body


def check_first_answer(header: bytes) -> None:
    """Raise ConnectFailure (not_postgres) when *header*, up to five bytes, cannot be its first."""
    if header[:1] not in _FIRST_CODES:
        raise not_postgres(header)
    if len(header) == _HEADER and not 4 <= struct.unpack("!i", header[1:])[0] <= _LONGEST_FIRST:
        raise not_postgres(header)


def not_postgres(header: bytes) -> ConnectFailure:
    return ConnectFailure(
        Failure.NOT_POSTGRES,
        f"what answers there is not PostgreSQL (it began with {header!r}); "
        "check the host and the port of DATABASE_URL",
    )


@cache
def tls_socket_class() -> "type[ssl.SSLSocket]":
    """Return the class of our sockets in TLS; ``ssl`` is loaded only where it is needed."""
    import ssl

    class TLSLoginSocket(ssl.SSLSocket):
        """One whose driver sends what travels behind the password."""

        behind_password = b""
        sent_behind_password = False

        def makefile(self, *args: Any, **kwargs: Any) -> Any:
            raw = super().makefile("rwb", buffering=0)
            return io.BufferedRWPair(raw, _LoginWriter(raw, self))

    return TLSLoginSocket
