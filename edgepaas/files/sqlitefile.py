"""An SQLite file judged from outside: whether it may be opened, and a note that it is damaged."""

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

from edgepaas.files.atomic import remove_durably, write_atomic

_SIDECARS = ("-wal", "-shm", "-journal")
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


def odd_kind(path: Path) -> str:
    """Return what lies at *path* in a file's place; empty for a file and for nothing."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return ""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "")


def not_to_be_opened(path: Path) -> str:
    """Return why SQLite must not open *path*; empty when it may. Raises OSError.

    Opening a FIFO may wait for ever. Opening a database of no bytes deletes the -wal beside
    it, read-only or not (pagerOpenWalIfPresent in SQLite's pager.c), and with it the rows
    that a power cut left nowhere else.
    """
    for file in (path, *sidecars(path)):
        kind = odd_kind(file)
        if kind:
            return f"{file.name} is {kind}, no file"
    if path.exists() and path.stat().st_size == 0:
        filled = [file.name for file in sidecars(path) if file.exists() and file.stat().st_size]
        if filled:
            return f"it has no bytes, while {' and '.join(filled)} has some"
    return ""


def note_damage(path: Path, why: object) -> None:
    """Leave a note beside *path* for the schema stage: whoever uses it found it damaged.

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


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.damage-suspected")
