# SPDX-License-Identifier: Apache-2.0
"""What travels with the end of a login: sent once, behind the password, and nowhere else."""

import io
import struct
from typing import Any

import pytest

from edgepaas.pgdriver.login_socket import _LoginWriter, ends_login, query_message


def message(body: bytes) -> bytes:
    """Return the message by which a client answers a request for a password."""
    return b"p" + struct.pack("!i", 4 + len(body)) + body


#: SASLInitialResponse, SASLResponse, PasswordMessage of md5, and one in plain text.
INITIAL = message(b"SCRAM-SHA-256\0" + struct.pack("!i", 8) + b"n,,n=,r=")
RESPONSE = message(b"c=biws,r=abc,p=def")
MD5 = message(b"md5ab2c\0")
PLAIN = message(b"SCRAM\0")
STARTUP = struct.pack("!ii", 8, 196608)


@pytest.mark.parametrize(
    ("sent", "last"),
    [(INITIAL, False), (RESPONSE, True), (MD5, True), (PLAIN, True), (STARTUP, False)],
)
def test_the_last_message_of_a_login_is_known(sent: bytes, last: bool) -> None:
    assert ends_login(sent) is last


class Wire:
    """A socket and its raw file in one; takes no more than *most* bytes at a time."""

    def __init__(self, most: int = 1000) -> None:
        self.behind_password = query_message("SET a = 1")
        self.sent_behind_password = False
        self.taken = b""
        self._most = most

    def write(self, data: Any) -> int:
        """Take a part."""
        part = bytes(data[: self._most])
        self.taken += part
        return len(part)

    def sendall(self, data: bytes) -> None:
        """Take all of it."""
        self.taken += data


def test_it_follows_the_password_once() -> None:
    wire: Any = Wire()
    writer = io.BufferedWriter(_LoginWriter(wire, wire))
    for sent in (STARTUP, INITIAL, RESPONSE, RESPONSE):
        writer.write(sent)
        writer.flush()
    query = b"Q\0\0\0\x0eSET a = 1\0"
    assert wire.taken == STARTUP + INITIAL + RESPONSE + query + RESPONSE
    assert wire.sent_behind_password


def test_where_no_password_is_asked_for_it_is_not_sent() -> None:
    wire: Any = Wire()
    writer = io.BufferedWriter(_LoginWriter(wire, wire))
    writer.write(STARTUP)
    writer.flush()
    assert wire.taken == STARTUP
    assert not wire.sent_behind_password


def test_a_password_that_goes_in_parts_is_not_torn() -> None:
    """Behind the whole of it, or not at all: it is asked for on its own then."""
    wire: Any = Wire(most=3)
    writer = io.BufferedWriter(_LoginWriter(wire, wire))
    writer.write(RESPONSE)
    writer.flush()
    assert wire.taken == RESPONSE
    assert not wire.sent_behind_password
