# SPDX-License-Identifier: Apache-2.0
"""The file that is imported, held as it was when it was opened.

A file is read several times, while a logger may write to it, or put another one in its place.
"""

import io
import os
import stat
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edgepaas.telemetry.importer.failures import ImportFailed

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class CsvFile:
    """The bytes that *path* held at first; what is written behind them is for the next run.

    *name* is what messages call it. Raises ImportFailed where it cannot be read.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self.path, self.name = path, name or str(path)
        #: A checksum of what the last whole pass read.
        self.checksum = 0
        try:
            self._file: BinaryIO = path.open("rb")
            self._size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise ImportFailed(
                f"cannot read {self.name}: {error.strerror}; give a CSV file with a header line"
            ) from error

    def __enter__(self) -> "CsvFile":
        """Give the file, opened."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self._file.close()

    def bytes(self) -> io.BufferedReader:
        """Return a reader from the start; it raises OSError."""
        return io.BufferedReader(_Part(self, self._file.fileno(), self._size), 1 << 16)

    def text(self, encoding: str, errors: str, newline: str) -> io.TextIOWrapper:
        """Return a reader of its text from the start; raises LookupError."""
        return io.TextIOWrapper(self.bytes(), encoding, errors, newline)


class _Part(io.RawIOBase):
    """Reads a descriptor up to a size, whatever position others read it at."""

    def __init__(self, file: CsvFile, descriptor: int, size: int) -> None:
        self._file, self._descriptor, self._size = file, descriptor, size
        self._at = self._checksum = 0

    def readable(self) -> bool:
        """As io wants to know."""
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read what comes next; the end is where the file ended at first."""
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self._size - self._at)
        data = os.pread(self._descriptor, wanted, self._at) if wanted else b""
        if not data:
            self._file.checksum = self._checksum
        view[: len(data)] = data
        self._at += len(data)
        self._checksum = zlib.crc32(data, self._checksum)
        return len(data)


def is_regular(path: Path) -> bool:
    """Tell whether *path* can be read more than once; what is not there can, to be named."""
    try:
        return stat.S_ISREG(path.stat().st_mode) or path.is_dir()
    except OSError:
        return True
