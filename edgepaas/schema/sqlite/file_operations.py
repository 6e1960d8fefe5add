# SPDX-License-Identifier: Apache-2.0
"""Handling the SQLite file as a file: copy, check, swap, set aside. Callers hold the lock.

What SQLite's "How To Corrupt" warns of (https://sqlite.org/howtocorrupt.html) is designed
out: a file is copied by SQLite itself, never moved while it has a hot -wal, and a -wal
never meets another database than its own.
"""

import contextlib
import glob
import logging
import os
import secrets
import sqlite3
import time
from pathlib import Path

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.files.atomic import move_durably, sync_file, sync_folder, write_atomic
from edgepaas.files.sqlite_file import sidecars
from edgepaas.schema.errors import SchemaError
from edgepaas.schema.sqlite.quarantine import SALVAGE, describe, quarantine_of, write_note

logger = logging.getLogger("edgepaas.schema")

#: Generations kept of what a migration replaced, and of what was set aside without a row.
KEPT = 2
#: Seconds that a boot spends on the quick check; a file too large for it is taken as it is.
CHECK_SECONDS = 20.0

#: A rare instruction count for the progress handler: cheap, and still well under a second.
_INSTRUCTIONS = 100_000


def temporary_beside(path: Path) -> Path:
    """Make an empty file, mode 0600, on the same file system; :func:`sweep` knows its name."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.new")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    return temporary


def sweep(path: Path) -> None:
    """Remove what a killed run left beside *path*: half-made copies, and a -wal without a file."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.new*"):
        leftover.unlink(missing_ok=True)
    if not path.exists() and any(map(Path.exists, sidecars(path))):
        # The -wal may hold committed rows; SQLite would discard it with a new file of this name.
        logger.warning("%s is gone but its -wal is there: it goes into quarantine", path)
        move_to_quarantine(path, path.parent / "quarantine", "its -wal was there without the file")


def discard(temporary: Path) -> None:
    """Remove an unfinished copy with its side files."""
    for file in (temporary, *sidecars(temporary)):
        with contextlib.suppress(FileNotFoundError):
            file.unlink()


def copy_database(source: Path, target: Path) -> None:
    """Copy *source* into the empty file *target* by SQLite's backup API; raises sqlite3.Error."""
    with (
        contextlib.closing(open_sqlite(source)) as from_connection,
        contextlib.closing(sqlite3.connect(target, isolation_level=None)) as to_connection,
    ):
        from_connection.backup(to_connection)


def problem_of(
    connection: sqlite3.Connection, *, seconds: float | None = None, thorough: bool = False
) -> str | None:
    """Return what ``quick_check`` finds; empty: nothing, None: not done within *seconds*.

    Those are CHECK_SECONDS where nothing else is said. *thorough*: ``integrity_check``, which
    compares tables and indexes as well.
    """
    seconds = CHECK_SECONDS if seconds is None else seconds
    deadline = time.monotonic() + seconds
    check = "integrity_check" if thorough else "quick_check"
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _INSTRUCTIONS)
    try:
        answer = connection.execute(f"PRAGMA {check}(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            logger.warning("the %s was not done within %g s and was given up", check, seconds)
            return None
        raise
    finally:
        connection.set_progress_handler(None, 0)
    return "" if answer[0] == "ok" else str(answer[0])


def check_copy(path: Path) -> None:
    """Raise SchemaError unless *path* is sound, keys included; for a copy before its swap."""
    with contextlib.closing(open_sqlite(path)) as connection:
        problem = problem_of(connection, seconds=3600)
        if problem:
            raise SchemaError(f"the migrated copy is damaged: {problem}")
        broken = connection.execute("PRAGMA foreign_key_check").fetchone()
        if broken is not None:
            raise SchemaError(
                f"the migration left a row of {broken[0]} that points to none of {broken[2]}"
            )


def swap_in(finished: Path, path: Path, backups: Path | None, label: str) -> Path | None:
    """Put the closed database *finished* in the place of *path*, at once or not at all.

    The file as it was stays in *backups* (None: nothing was there) under a name with
    *label*; its path is returned. A kill at any point leaves *path* whole, old or new.
    """
    sync_file(finished)
    kept = None
    if path.exists():
        _settle(path)
        if backups is not None:
            kept = _keep(path, backups, label)
    move_durably(finished, path)
    if kept is not None:
        _prune(kept.parent)
    return kept


def back_up(path: Path, backups: Path, label: str) -> Path:
    """Write a copy of *path* into *backups* by SQLite's own means and return its path."""
    backups.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy = _next_name(backups, label, path.name)
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    copy_database(path, copy)
    sync_file(copy)
    sync_folder(backups)
    _prune(backups)
    return copy


def move_to_quarantine(path: Path, quarantine: Path, reason: str, *, salvage: bool = False) -> Path:
    """Move *path* with its -wal and -shm into a folder of its own and return that folder.

    A note in it says why, and how many rows there are. *salvage*: what it holds for the hub
    is to be brought into its successor.
    """
    note = describe(path, reason)
    quarantine = quarantine_of(path, quarantine)
    quarantine.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = _next_name(quarantine, "", path.name)
    folder.mkdir(mode=0o700)
    if salvage:
        try:
            write_atomic(folder / SALVAGE, "")  # before the file: a power cut may come any time
        except OSError as error:
            logger.warning("that %s is to be salvaged could not be noted: %s", folder, error)
    # The file first: killed in between, a -wal without its file is found by sweep(); a file
    # without its -wal would be taken for a whole one that lacks its last rows.
    for file in (path, *sidecars(path)):
        with contextlib.suppress(FileNotFoundError):
            file.rename(folder / file.name)
    sync_folder(path.parent)
    sync_folder(folder)
    try:
        write_note(folder, note)
    except OSError as error:  # without it the folder counts as one that may hold rows
        logger.warning("the note in %s could not be written: %s", folder, error)
    return folder


def forget_unfinished_backups(path: Path, backups: Path) -> None:
    """Remove backup names of the file that is still in use: a swap was killed before its end."""
    if not backups.is_dir() or not path.exists():
        return
    status = path.stat()
    for name in backups.iterdir():
        if name.stat().st_ino == status.st_ino and name.stat().st_dev == status.st_dev:
            name.unlink()


def _keep(path: Path, backups: Path, label: str) -> Path:
    backups.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = _next_name(backups, label, path.name)
    try:
        # A second name for the same file costs no space; the swap takes the first one away.
        os.link(path, kept)
    except OSError:  # another file system, or one without links
        return back_up(path, backups, label)
    sync_folder(backups)
    return kept


def _settle(path: Path) -> None:
    """Fold the -wal of *path* into it, so that none is left for the file that takes its place."""
    with contextlib.closing(open_sqlite(path)) as connection:
        mode = connection.execute("PRAGMA journal_mode=DELETE").fetchone()[0]
    if mode != "delete" or any(map(Path.exists, sidecars(path))):
        raise SchemaError(f"{path} is still open somewhere: stop what uses it and run again")


def _next_name(folder: Path, label: str, name: str) -> Path:
    """Return a name that sorts after all there are: the clock of a small box may step back."""
    numbers = [int(entry.name[:6]) for entry in folder.iterdir() if entry.name[:6].isdecimal()]
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    parts = (f"{max(numbers, default=0) + 1:06d}", stamp, label, name)
    return folder / ".".join(part for part in parts if part)


def _prune(folder: Path) -> None:
    for entry in sorted(folder.iterdir())[:-KEPT]:
        logger.warning("removing %s: only the newest %d are kept", entry, KEPT)
        entry.unlink()
