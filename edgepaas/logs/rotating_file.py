# SPDX-License-Identifier: Apache-2.0
"""The log file: begun anew when it is full, with the last few kept beside it.

``logging.handlers`` has a handler for that, and imports sockets, pickle and queues with it:
4 ms of processor time at the start of every stage of the boot chain.
"""

import contextlib
import fcntl
import logging
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

LOG_FILE_BYTES = 5 * 1024 * 1024
LOG_FILE_COUNT = 5


class RotatingLogFile(logging.FileHandler):
    """A log file that is begun anew once it holds *full_at* bytes.

    ``NAME.1`` is the one before, and so on, up to *kept* of them. Several processes may write the
    same file: the one that finds it full renames it, under a lock on its folder, and the others
    go on in the new one. The disk may be full: that
    is reported once, on standard error, where the line itself is, too. Raises OSError when
    the file cannot be opened at first.
    """

    _reported = False

    def __init__(
        self, file: Path, *, full_at: int = LOG_FILE_BYTES, kept: int = LOG_FILE_COUNT
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self._file = Path(self.baseFilename)
        self._full_at = full_at
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        """Write *record*, after the files were rotated where this one is full."""
        try:
            if self._is_full():
                with _folder_locked(self._file.parent):
                    if self._is_full():  # no other process has rotated it meanwhile
                        self._rotate()
            self._follow()
        except OSError:  # a file that cannot be renamed is written on
            self.handleError(record)
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Report the error that is being handled, the first time."""
        if not self._reported:
            self._reported = True
            error = sys.exc_info()[1]
            sys.stderr.write(f"edgepaas: the log file cannot be written: {error}\n")

    def _is_full(self) -> bool:
        try:
            # Another process may write the same file: its size is asked for, not counted.
            status = self._file.stat()
        except FileNotFoundError:  # an operator removed it: nothing to rotate
            return False
        # What is no regular file (/dev/null, a pipe) is never full and cannot be renamed.
        return stat.S_ISREG(status.st_mode) and status.st_size >= self._full_at

    def _rotate(self) -> None:
        for number in range(self._kept - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._numbered(number).replace(self._numbered(number + 1))
        self._file.replace(self._numbered(1))

    def _follow(self) -> None:
        """Write on in the file that has the name now: this or another process rotated it."""
        if self.stream is None:
            return
        try:
            now, own = self._file.stat(), os.fstat(self.stream.fileno())
            if (now.st_dev, now.st_ino) == (own.st_dev, own.st_ino):
                return
        except FileNotFoundError:  # rotated, or an operator removed it: it is made again
            pass
        before, self.stream = self.stream, self._open()
        before.close()

    def _numbered(self, number: int) -> Path:
        return self._file.with_name(f"{self._file.name}.{number}")


@contextlib.contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    """Hold the lock under which the files of *folder* are renamed; one process does so at a time.

    The folder itself is locked: a file for that would lie among the logs.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
