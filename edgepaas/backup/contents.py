# SPDX-License-Identifier: Apache-2.0
"""What of a box is worth keeping, copied into a folder in which nothing changes any more."""

import contextlib
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from edgepaas.backup.archive import DATABASE, JOURNAL, SETTINGS, STATE
from edgepaas.database.sqlite import numeric_order
from edgepaas.errors import EdgePaaSError
from edgepaas.files.locks import held
from edgepaas.files.paths import Paths
from edgepaas.files.sqlite_file import open_refusal_reason, sidecars
from edgepaas.outbox.journal.tables import journal_path, lock_of
from edgepaas.schema.sqlite.file_operations import problem_of

#: Names in the backup.
DATABASE_NAME, JOURNAL_NAME, SETTINGS_NAME = "database.db", "journal.db", "edgepaas.env"
STATE_FOLDER = "state"
#: Where a restore keeps what it replaced.
REPLACED = "before-restore"

#: Of the state folder: copies, what is made anew, and what says something of this moment alone.
_LEFT_OUT = frozenset(
    {"backups", "ballast", "drill", "marks-owners", "postgres-hold", "unsent-rows", REPLACED}
)
_SQLITE = b"SQLite format 3\0"
#: Seconds to wait for a process that swaps the file.
_LOCK_SECONDS = 30.0
#: A check takes less than copying does; nothing waits for it.
_CHECK_SECONDS = 6 * 3600.0
_SPARE = 32 * 1024 * 1024


class NotBackedUp(EdgePaaSError):
    """No backup can be made; says why and the way out."""


def gather(paths: Paths, sqlite_path: Path, staging: Path) -> list[tuple[str, str]]:
    """Copy what a backup of the box holds into *staging*; return (name, role) of each file.

    SQLite files are copied by SQLite itself while others write, and checked to their end. The
    journal follows the SQLite file: what it then has more, the marks on the hub settle. Raises
    NotBackedUp, OSError, LockHeld.
    """
    _require_room(paths, sqlite_path, staging)
    found: list[tuple[str, str]] = []
    if sqlite_path.exists():
        with held(paths.database_lock, shared=True, timeout=_LOCK_SECONDS):
            _copy_sqlite(sqlite_path, staging / DATABASE_NAME)
        found.append((DATABASE_NAME, DATABASE))
    journal = journal_path(sqlite_path)
    if journal.exists():
        with held(lock_of(journal), shared=True, timeout=_LOCK_SECONDS):
            _copy_sqlite(journal, staging / JOURNAL_NAME)
        found.append((JOURNAL_NAME, JOURNAL))
    for file in _state_files(paths.state, sqlite_path):
        name = f"{STATE_FOLDER}/{file.relative_to(paths.state)}"
        target = staging / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # gone since the folder was read
            _copy_any(file, target, raw=paths.quarantine in file.parents)
            found.append((name, STATE))
    with contextlib.suppress(FileNotFoundError, PermissionError):
        _copy_plain(paths.env_file, staging / SETTINGS_NAME)
        found.append((SETTINGS_NAME, SETTINGS))
    return found


def check_sqlite(file: Path, *, thorough: bool = True) -> None:
    """Raise NotBackedUp unless *file*, a copy, is sound to its last page.

    Not *thorough*: without its indexes, whose order only an application may know.
    """
    try:
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as connection:
            numeric_order.register(connection)
            problem = problem_of(connection, seconds=_CHECK_SECONDS, thorough=thorough)
    except sqlite3.Error as error:
        problem = str(error)
    if problem:
        raise NotBackedUp(
            f"{file.name} is damaged ({problem}): 'edgepaas doctor' says what to do about it"
        )


def is_of_the_database(name: str, sqlite_path: Path) -> bool:
    """Whether *name* is the SQLite file, its journal, or something that stands beside them."""
    return name.removeprefix(".").startswith(sqlite_path.name)


def _require_room(paths: Paths, sqlite_path: Path, staging: Path) -> None:
    needed = _SPARE
    for file in (sqlite_path, journal_path(sqlite_path)):
        for one in (file, *sidecars(file)):
            with contextlib.suppress(FileNotFoundError):
                needed += one.stat().st_size
    needed += sum(one.stat().st_size for one in _state_files(paths.state, sqlite_path))
    free = shutil.disk_usage(staging).free
    if free < needed:
        raise NotBackedUp(
            f"{staging.parent} has {free // 2**20} MiB free, and the copies that a backup is made "
            f"of need {needed // 2**20} MiB: make room there, or wait until rows have gone"
        )


def _state_files(state: Path, sqlite_path: Path) -> Iterator[Path]:
    for entry in sorted(state.iterdir()):
        name = entry.name
        beside = sqlite_path.parent == state and is_of_the_database(name, sqlite_path)
        if beside or name in _LEFT_OUT or name.startswith(".") or name.endswith(".lock"):
            continue
        yield from _files_below(entry)


def _files_below(entry: Path) -> Iterator[Path]:
    """Yield regular files; links and sockets are left out, and what SQLite has beside a file."""
    kind = entry.lstat().st_mode
    if stat.S_ISDIR(kind):
        for one in sorted(entry.iterdir()):
            yield from _files_below(one)
    elif stat.S_ISREG(kind) and not entry.name.endswith(".lock"):
        yield entry


def _copy_any(file: Path, target: Path, *, raw: bool) -> None:
    if raw:
        _copy_plain(file, target)
        return
    for suffix in ("-wal", "-shm", "-journal"):
        if file.name.endswith(suffix) and _is_sqlite(file.with_name(file.name[: -len(suffix)])):
            raise FileNotFoundError(file)  # is in the copy of the file that it belongs to
    if _is_sqlite(file):
        _copy_sqlite(file, target, thorough=False)
    else:
        _copy_plain(file, target)


def _is_sqlite(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False


def _copy_sqlite(source: Path, target: Path, *, thorough: bool = True) -> None:
    """Copy by SQLite's backup API, into a file that has nothing beside it; checked."""
    if reason := open_refusal_reason(source):
        raise NotBackedUp(f"{source}: {reason}: 'edgepaas doctor' says what to do about it")
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    address = f"file:{quote(str(source.absolute()))}?mode=rw"
    try:
        with (
            contextlib.closing(sqlite3.connect(address, uri=True, timeout=30.0)) as from_file,
            contextlib.closing(sqlite3.connect(target, isolation_level=None)) as to_file,
        ):
            from_file.backup(to_file)
            to_file.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as error:
        raise NotBackedUp(
            f"{source} cannot be copied ({error}): 'edgepaas doctor' says what to do about it"
        ) from error
    check_sqlite(target, thorough=thorough)


def _copy_plain(source: Path, target: Path) -> None:
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as opened, target.open("xb") as copy:
        target.chmod(0o600)
        shutil.copyfileobj(opened, copy)
