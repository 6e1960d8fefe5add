# SPDX-License-Identifier: Apache-2.0
"""Whether the files that a SQLite connection writes to still are the ones under their names."""

import os
from pathlib import Path

#: What SQLite appends to the file's name for those beside it
#: (https://sqlite.org/howtocorrupt.html, "Unlinking or renaming a database file while in use").
_BESIDE = ("-wal", "-shm")


class OpenFiles:
    """The database file *path* and those beside it, as they are now, open.

    No descriptor of its own is opened: closing one would drop the locks that SQLite has
    on the file in this process. While SQLite has a file open, no other gets its inode.
    """

    def __init__(self, path: Path) -> None:
        """*path* is open, and has been read from. Raises OSError when it is not there."""
        self._file = path
        #: By their names as text: they are looked at twice a commit.
        self._known = {str(path): _identity(path)}
        for suffix in _BESIDE:
            name = f"{path}{suffix}"
            try:
                self._known[name] = _identity(name)
            except FileNotFoundError:  # a file that cannot be written may have none
                continue

    def lost(self) -> str:
        """Return which file was deleted or replaced, and empty when all are there.

        Raises OSError when they cannot be looked at.
        """
        for name, known in self._known.items():
            try:
                if _identity(name) != known:
                    return f"{name} was replaced while it was open"
            except FileNotFoundError:
                return f"{name} was deleted while it was open"
        return ""

    def file_is_there(self) -> bool:
        """Whether the database file itself is the one that was opened."""
        try:
            return _identity(self._file) == self._known[str(self._file)]
        except OSError:
            return False


def _identity(path: Path | str) -> tuple[int, int]:
    found = os.stat(path)  # noqa: PTH116 - half of the price of Path.stat()
    return found.st_dev, found.st_ino
