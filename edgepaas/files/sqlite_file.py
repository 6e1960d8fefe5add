# SPDX-License-Identifier: Apache-2.0
"""An SQLite file judged from outside: may it be opened, was it in use, is it damaged."""

import contextlib
import glob
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from edgepaas.files.atomic import remove_durably, write_atomic
from edgepaas.timing.moment import current_moment

_SIDECARS = ("-wal", "-shm", "-journal")
_IN_USE = ".in-use-"
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


def sidecars(path: Path) -> Iterator[Path]:
    """Give the names of what SQLite keeps beside the database file *path*."""
    return (path.with_name(path.name + suffix) for suffix in _SIDECARS)


def wal_of(path: Path) -> Path:
    """Return the name of the write-ahead log of the database file *path*."""
    return path.with_name(f"{path.name}-wal")


def wrong_file_type(path: Path) -> str:
    """Return what lies at *path* in a file's place; empty for a file and for nothing."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return ""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "")


def open_refusal_reason(path: Path) -> str:
    """Return why SQLite must not open *path*; empty when it may. Raises OSError.

    Opening a FIFO may wait for ever. Opening a database of no bytes deletes the -wal beside
    it, read-only or not (pagerOpenWalIfPresent in SQLite's pager.c), and with it the rows
    that a power cut left nowhere else.
    """
    for file in (path, *sidecars(path)):
        kind = wrong_file_type(file)
        if kind:
            return f"{file.name} is {kind}, no file"
    if path.exists() and path.stat().st_size == 0:
        filled = [file.name for file in sidecars(path) if file.exists() and file.stat().st_size]
        if filled:
            return f"it has no bytes, while {' and '.join(filled)} has some"
    return ""


def note_damage(path: Path, why: object) -> None:
    """Leave a note beside *path* for the schema stage: a process that uses it found it damaged.

    The quick check of a boot is bounded in time, so a large file may be damaged all the
    same. Never raises: the disk may be what fails.
    """
    with contextlib.suppress(OSError):
        write_atomic(_note(path), f"{why}\n")


def damage_noted(path: Path) -> bool:
    """Whether *path* was found damaged since it was last checked to its end."""
    return _note(path).is_file()


def forget_damage(path: Path) -> None:
    """Remove the note: *path* was checked, or is another file now."""
    remove_durably(_note(path))


def note_use(path: Path) -> Path:
    """Leave a mark beside *path* that this process writes to it; return the mark.

    Whatever stops the box uncleanly leaves it there. Not synced on its own: the first commit
    to the file takes it along on a file system with a journal. Never raises.
    """
    # Random as ``secrets`` is, which loads OpenSSL: 4 ms of each stage.
    mark = path.with_name(f"{path.name}{_IN_USE}{os.getpid()}.{os.urandom(4).hex()}")
    with contextlib.suppress(OSError):
        mark.write_text(current_moment().boot_id, encoding="ascii")
    return mark


def forget_use(mark: Path) -> None:
    """Remove the mark: the file was closed in an orderly way. Never raises."""
    with contextlib.suppress(OSError):
        mark.unlink(missing_ok=True)


def stopped_uncleanly(path: Path) -> bool:
    """Whether the box stopped while *path* was in use, by a power cut or its like.

    A process that was killed leaves a mark too, which says nothing: what it had written is
    the kernel's to keep.
    """
    return bool(_stale_marks(path)[0])


def forget_unclean_stop(path: Path) -> None:
    """Remove the marks of processes that are gone."""
    for mark in {mark for marks in _stale_marks(path) for mark in marks}:
        forget_use(mark)


def note_due_check(path: Path) -> None:
    """Have the next process that uses *path* check it to its end; never raises."""
    with contextlib.suppress(OSError):
        write_atomic(_due(path), "")


def check_is_due(path: Path) -> bool:
    """Whether *path* is still to be checked to its end."""
    return _due(path).is_file()


def forget_due_check(path: Path) -> None:
    """Note that *path* was checked, or is another file now; never raises."""
    with contextlib.suppress(OSError):
        remove_durably(_due(path))


def _stale_marks(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the marks of another boot, and those of this one whose process is gone."""
    boot_id = current_moment().boot_id
    cut: list[Path] = []
    killed: list[Path] = []
    for mark in path.parent.glob(f"{glob.escape(path.name)}{_IN_USE}*"):
        try:
            written = mark.read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            written = ""
        pid = mark.name.rpartition("-")[2].partition(".")[0]
        # Empty: the power went before the word was on the disk, if there is a boot id at all.
        if written != boot_id or not boot_id:
            cut.append(mark)
        elif not Path("/proc", pid).exists():
            killed.append(mark)
    return cut, killed


def _due(path: Path) -> Path:
    return path.with_name(f"{path.name}.check-due")


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.damage-suspected")
