# SPDX-License-Identifier: Apache-2.0
"""COPY between the server and a stream of the caller (PostgreSQL manual, 55.2.6 "COPY")."""

from collections.abc import Callable, Iterator
from io import TextIOBase
from typing import Any

from edgepaas.pgdriver import pg8000_adapter
from edgepaas.pgdriver.flights import messages

_CHUNK = 65536


class Copying:
    """What a COPY reads from, or writes to; *stream* is None where the caller gave none.

    A COPY that fails at this end is ended in order; ``error`` is then what to raise.
    """

    def __init__(self, stream: Any, encoding: str) -> None:
        self.error: BaseException | None = None
        self._stream = stream
        self._encoding = encoding

    def handle(self, code: bytes, body: bytes, write: Callable[[bytes], None]) -> None:
        """Act on a message of a COPY; *write* sends bytes to the server."""
        if code == b"G":
            write(self._all_data(write))
        elif code == b"H" and self._stream is None:
            self.error = pg8000_adapter.interface_error(
                "An output stream is required for the COPY OUT response."
            )
        elif code == b"d" and self.error is None:
            try:
                text = isinstance(self._stream, TextIOBase)
                self._stream.write(body.decode(self._encoding) if text else body)
            except Exception as error:  # noqa: BLE001 - raised once the rest is read
                self.error = error

    def _all_data(self, write: Callable[[bytes], None]) -> bytes:
        """Send all data of the stream; returns what ends the COPY, with the Sync after it.

        The Sync that was sent before is ignored by a server that waits for data.
        """
        try:
            if self._stream is None:
                raise pg8000_adapter.interface_error(
                    "The 'stream' parameter is required for the COPY IN response. The "
                    "'stream' parameter can be an I/O stream or an iterable."
                )
            pieces = self._pieces()
            for piece in pieces:
                write(messages.message(b"d", piece))
        except OSError:
            raise  # of the link; a stream's own is caught below
        except Exception as error:  # noqa: BLE001 - raised once the server has answered
            self.error = error
            return messages.copy_fail(b"the client's stream failed") + messages.SYNC
        return messages.COPY_DONE + messages.SYNC

    def _pieces(self) -> Iterator[bytes]:
        read = getattr(self._stream, "read", None)
        source = iter(lambda: read(_CHUNK), None) if read is not None else iter(self._stream)
        while True:
            try:
                piece = next(source, None)
            except OSError as error:
                raise RuntimeError(f"the stream of COPY cannot be read: {error}") from error
            if piece is None or (read is not None and not piece):
                return
            yield piece.encode(self._encoding) if isinstance(piece, str) else bytes(piece)
