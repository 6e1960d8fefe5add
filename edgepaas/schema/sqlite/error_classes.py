# SPDX-License-Identifier: Apache-2.0
"""What an error says about the SQLite file: damaged, no room, a failing disk, out of reach."""

import errno
import os
import sqlite3
from pathlib import Path

from edgepaas.errors import DatabaseBusy, DatabaseFull, DatabaseUnavailable, EdgePaaSError
from edgepaas.files.locks import LockHeld
from edgepaas.schema.errors import RevisionRefused, SchemaError, SchemaRefused, brief

#: A file system with less than this many bytes left is full: no error there is the file's.
FULL_BELOW = 256 * 1024

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
#: https://sqlite.org/rescode.html
_PASSING_CODES = frozenset(
    {
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL),
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN),
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM),
    }
)
_PASSING = (
    *(OSError, MemoryError, LockHeld, DatabaseUnavailable, DatabaseBusy, DatabaseFull),
    RevisionRefused,
)
#: Errors that were raised of one another.
_LONGEST_CHAIN = 20


class Damaged(SchemaError):
    """The file is no sound database."""


class Unreadable(SchemaError):
    """The disk answered with an error: no proof against the file, which may be whole."""


def error_for(path: Path, error: sqlite3.Error) -> EdgePaaSError:
    """Return what *error* says about the file *path*."""
    code = _code(error)
    if code == sqlite3.SQLITE_FULL or disk_is_full(path):
        return DatabaseFull(f"the disk has no room to open {path}: {error}")
    if code in _DAMAGED or path.is_dir():
        return Damaged(str(error))
    if fails_to_read(error):
        return unreadable(path, error)
    if not os.access(path, os.R_OK | os.W_OK):
        return SchemaRefused(
            f"{path} is left as it is, with all its rows, and cannot be opened "
            f"({os.strerror(errno.EACCES)}): give it to the user that this runs as ('ls -l' "
            f"shows whose it is)"
        )
    return SchemaError(f"{path} cannot be opened: {error}")


def fails_to_read(error: BaseException) -> bool:
    """Whether *error* is the disk's, and not the file's nor a migration's."""
    if isinstance(error, OSError):
        return error.errno in (errno.EIO, errno.EROFS)
    return _code(error) == sqlite3.SQLITE_IOERR


def passes_by_itself(error: BaseException) -> bool:
    """Whether *error* is the machine's, or another process's, so that a later attempt may succeed.

    A full or failing disk, a file that is in use, a server that is away, rows that are still to be
    salvaged; not what is in the file, nor what a migration makes of it. What a library wraps is
    looked at as well.
    """
    seen: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if seen is None:
            return False
        if isinstance(seen, _PASSING) or _code(seen) in _PASSING_CODES:
            return True
        seen = getattr(seen, "orig", None) or seen.__cause__ or seen.__context__
    return False


def unreadable(path: Path, error: BaseException) -> Unreadable:
    """Return the line for a person whom a failing disk concerns."""
    return Unreadable(
        f"the disk fails below {path} ({brief(error)}); the file was left as it was and is "
        f"tried again: look at 'dmesg' and replace the disk if it goes on"
    )


def disk_is_full(path: Path) -> bool:
    """Whether nothing can be written beside *path*."""
    status = os.statvfs(path.parent)
    return status.f_bavail * status.f_frsize < FULL_BELOW


def _code(error: BaseException) -> int:
    """Return SQLite's primary result code, SQLAlchemy's wrapping aside; 0 for none."""
    original = getattr(error, "orig", None) or error
    return int(getattr(original, "sqlite_errorcode", 0) or 0) & 0xFF
