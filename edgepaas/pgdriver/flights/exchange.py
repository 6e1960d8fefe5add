# SPDX-License-Identifier: Apache-2.0
"""Sending the bytes of a flight, and reading its answers up to ReadyForQuery."""

import struct
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from edgepaas.pgdriver import pg8000_adapter
from edgepaas.pgdriver.failures import is_lost, server_message
from edgepaas.pgdriver.flights.answers import (
    Answer,
    Decoder,
    RowFormat,
    parse_row,
    parse_row_format,
)
from edgepaas.pgdriver.flights.copying import Copying

_HEAD = struct.Struct("!ci").unpack_from
_HEAD_SIZE = 5
#: Formats of rows that are kept: a statement's is the same each time.
_FORMATS_KEPT = 256

#: Bytes; not what a message's length asks for, which need not be true.
_READ_AT_ONCE = 1 << 18

#: The transaction's state in ReadyForQuery.
IDLE = b"I"
OPEN = b"T"
FAILED = b"E"


def is_of_the_link(error: BaseException) -> bool:
    """Whether *error* means that the connection is gone, or speaks what cannot be understood.

    A TimeoutError, which a socket with a time limit raises, says more as it is.
    """
    known = isinstance(error, (OSError, ValueError, struct.error, IndexError))
    return known and not isinstance(error, TimeoutError)


class Exchange:
    """The two directions of one connection; *driver* is pg8000's, logged in.

    After an error on the way, or a message that cannot be, ``lost`` is true, and nothing can
    be sent any more: the server's state is not known. Raises TimeoutError where the socket has a
    time limit.
    """

    def __init__(self, driver: Any) -> None:
        self.lost = False
        #: The state that the server reported last: IDLE, OPEN or FAILED.
        self.status = IDLE
        #: Flights that were sent and are not answered yet.
        self.unanswered = 0
        #: Flights that were answered.
        self.answered = 0
        self._driver = driver
        self._link = driver.link
        self._encoding = pg8000_adapter.client_encoding(driver)
        self._data = b""
        self._position = 0
        self._formats: OrderedDict[bytes, RowFormat] = OrderedDict()
        self.decoder_of: Callable[[int], Decoder] = pg8000_adapter.decoders(driver)

    @property
    def encoding(self) -> str:
        """The encoding of all text, by Python's name."""
        return self._encoding

    def forget_formats(self) -> None:
        """Look for the decoders of each column again."""
        self._formats.clear()

    def send(self, flight: bytes) -> None:
        """Send *flight*, which ends with a Sync or is one simple query; raises InterfaceError."""
        if self.lost:
            raise pg8000_adapter.interface_error("connection is closed")
        self.unanswered += 1
        try:
            self._write(flight)
        except BaseException as error:
            self.lost = True
            if is_of_the_link(error):
                raise pg8000_adapter.interface_error("network error") from error
            raise

    def receive(
        self,
        answers: Sequence[Answer] = (),
        *,
        copying: Copying | None = None,
        first_within: float | None = None,
    ) -> list[Answer]:
        """Return one answer for each statement of the earliest flight that is not answered.

        The first ones are *answers*, which may know the format of their rows already. Raises
        the first error that the server reported in the flight, and InterfaceError where the
        connection is lost; TimeoutError where nothing at all comes *first_within* seconds.
        """
        if self.lost:
            raise pg8000_adapter.interface_error("connection is closed")
        error: BaseException | None = None
        try:
            if first_within is not None:
                self._wait_for_first(first_within)
            given, error = self._read_flight(list(answers), copying)
        except BaseException as failure:
            self.lost = True
            if is_of_the_link(failure):
                raise pg8000_adapter.interface_error("network error") from failure
            raise
        self.unanswered -= 1
        self.answered += 1
        if error is not None:
            try:
                raise error
            finally:
                del error  # a cycle through its traceback
        return given

    def is_quiet(self) -> bool:
        """Whether nothing has come since the last answer: not even the connection's end."""
        return self._position >= len(self._data) and not pg8000_adapter.is_readable(self._link)

    def _wait_for_first(self, seconds: float) -> None:
        before = self._link.gettimeout()
        self._link.settimeout(seconds)
        self._fill(_HEAD_SIZE, None)
        self._link.settimeout(before)

    def _write(self, data: bytes) -> None:
        # Not sendall(): its time limit is for all of it, and a slow link takes long.
        view = memoryview(data)
        while view:
            view = view[self._link.send(view) :]

    def _read_flight(
        self, known: list[Answer], copying: Copying | None
    ) -> tuple[list[Answer], BaseException | None]:
        """Read to ReadyForQuery; returns the answers that are complete, and the first error."""
        done: list[Answer] = []
        error: BaseException | None = None
        answer = known[0] if known else Answer()
        while True:
            code, start, end = self._next_message(error)
            data = self._data
            if code == b"D":
                if answer.format is None:
                    raise ValueError("a row without its description")
                try:
                    row = parse_row(data, start, answer.format.decoders, self._encoding)
                except Exception as failure:  # noqa: BLE001 - raised when all of it is read
                    error = error or failure
                else:
                    answer.rows.append(row)
            elif code == b"T":
                answer.format = self._row_format(data[start:end])
            elif code in (b"C", b"I"):
                answer.tag = data[start : end - 1].decode("ascii") if code == b"C" else ""
                done.append(answer)
                answer = known[len(done)] if len(done) < len(known) else Answer()
            elif code == b"Z":
                self.status = data[start:end]
                if copying is not None:
                    error = error or copying.error
                return done, error
            elif code == b"E":
                error = error or pg8000_adapter.statement_error(data[start:end], self._encoding)
            elif code in b"GHdc":
                copying = copying or Copying(None, self._encoding)
                copying.handle(code, data[start:end], self._write)
            elif code not in b"12n3ts":
                self._handle_other(code, data[start:end])

    def _handle_other(self, code: bytes, body: bytes) -> None:
        pg8000_adapter.handle_message(self._driver, code, body)
        if code == b"S":
            self._encoding = pg8000_adapter.client_encoding(self._driver)

    def _row_format(self, body: bytes) -> RowFormat:
        found = self._formats.get(body)
        if found is None:
            found = parse_row_format(body, self._encoding, self.decoder_of)
            if len(self._formats) >= _FORMATS_KEPT:
                self._formats.popitem(last=False)
            self._formats[body] = found
        return found

    def _next_message(self, error: BaseException | None) -> tuple[bytes, int, int]:
        """Return a message's code, and where its body begins and ends in ``_data``."""
        start = self._position + _HEAD_SIZE
        if start > len(self._data):
            self._fill(_HEAD_SIZE, error)
            start = self._position + _HEAD_SIZE
        code, size = _HEAD(self._data, self._position)
        if size < 4:
            raise ValueError("a message without a length")
        end = self._position + 1 + size
        if end > len(self._data):
            self._fill(1 + size, error)
            start, end = self._position + _HEAD_SIZE, self._position + 1 + size
        self._position = end
        return code, start, end

    def _fill(self, size: int, error: BaseException | None) -> None:
        """Read until *size* bytes are there from ``_position``, which becomes 0."""
        rest = self._data[self._position :]
        parts, have = [rest], len(rest)
        while have < size:
            some = pg8000_adapter.read_some(self._driver, _READ_AT_ONCE)
            if not some:
                raise self._ended(error)
            parts.append(some)
            have += len(some)
        self._data, self._position = b"".join(parts), 0

    def _ended(self, error: BaseException | None) -> BaseException:
        """Return what a connection means that the server has closed, after its last *error*."""
        if error is None:
            return pg8000_adapter.interface_error("network error")
        if is_lost(error):
            return error
        return pg8000_adapter.interface_error(f"network error after: {server_message(error)}")
