# SPDX-License-Identifier: Apache-2.0
"""What lies in quarantine: it is reported until an operator has dealt with it.

Imports nothing heavy: the service asks it at its start.
"""

import contextlib
import glob
import os
import time
from dataclasses import dataclass
from pathlib import Path

from edgepaas.decision.waiting import is_sound_and_empty, rows_waiting
from edgepaas.files import shapes
from edgepaas.files.atomic import remove_durably, write_atomic
from edgepaas.files.paths import Paths
from edgepaas.files.records import NotThisRecord, RecordType
from edgepaas.files.sqlite_file import sidecars, wrong_file_type
from edgepaas.timing.moment import rfc3339

#: Beside each file in quarantine: what it was, and why it is there.
NOTE = "why.json"
#: Beside a file whose rows for the hub have not been brought into its successor yet.
SALVAGE = "to-be-salvaged"
#: Beside a file whose rows are in the file in use again, but for those that differ there.
TAKEN = "taken-back"
#: Beside a file that could not be taken back, for a cause that lasts: which build and migrations
#: have tried it.
TRIED = "tried-by"
_MARKS = (NOTE, SALVAGE, TAKEN, TRIED)

RECORD = RecordType(
    "quarantine-note",
    2,
    {
        "file": shapes.text,
        "from": shapes.text,
        "reason": shapes.text,
        "rows": shapes.optional(shapes.whole),
        "empty": shapes.flag,
        "at": shapes.text,
    },
    {1: lambda old: {"file": "", "from": "", "empty": False, "at": "", **old}},
)


@dataclass(frozen=True)
class SetAside:
    """A file in quarantine; *rows* is None where they could not be counted."""

    folder: Path
    file: str
    rows: int | None
    reason: str

    @property
    def line(self) -> str:
        """The finding and the way out, in a line for a person."""
        rows = "rows that could not be counted" if self.rows is None else f"{self.rows:,} rows"
        why = f" ({self.reason})" if self.reason else ""
        return (
            f"{self.folder / self.file} was set aside with {rows}{why}: it comes back by itself "
            f"once a release can use it ('edgepaas schema --repair' tries now); else take from it "
            f"what is needed (sqlite3 reads it), then move {self.folder} away or remove it"
        )


@dataclass(frozen=True)
class Content:
    """The files of one folder in quarantine, by name; *size* in bytes, *rows* None if unknown.

    *nothing*: there is certainly no row in them, sent or not.
    """

    names: tuple[str, ...]
    rows: int | None
    reason: str
    size: int
    nothing: bool


def quarantine_of(path: Path, quarantine: Path) -> Path:
    """Return where *path* is to be moved: *quarantine*, unless it is on another file system."""
    if quarantine.parent.stat().st_dev != path.parent.stat().st_dev:
        quarantine = path.parent / quarantine.name  # a rename does not cross file systems
    if os.path.lexists(quarantine) and not quarantine.is_dir():
        return _second(quarantine)
    return quarantine


def quarantines(paths: Paths, sqlite_path: Path) -> list[Path]:
    """Return the folders that may hold what was set aside; they need not be there."""
    first = sorted({paths.quarantine, sqlite_path.parent / paths.quarantine.name})
    return [*first, *map(_second, first)]


def _second(quarantine: Path) -> Path:
    """Return the name to take where a file has that of the folder."""
    return quarantine.with_name(f"{quarantine.name}-2")


def describe(path: Path, reason: str) -> dict[str, object]:
    """Return the note on *path*, made while it is still in its place."""
    counted = rows_waiting(path) if path.is_file() else None
    rows = counted.total if counted is not None and counted.readable else None
    empty = path.is_file() and is_sound_and_empty(path)
    if wrong_file_type(path) not in ("", "a directory") and not any(
        map(Path.exists, sidecars(path))
    ):
        rows, empty = 0, True  # a FIFO or its like: there is nothing in it to be lost
    return {
        "file": path.name,
        "from": str(path),
        "reason": reason,
        "rows": rows,
        # Not the same as no rows: those are the ones that PostgreSQL lacks.
        "empty": empty,
        "at": rfc3339(time.time()),
    }


def write_note(folder: Path, note: dict[str, object]) -> None:
    """Write *note* into *folder*; raises OSError."""
    RECORD.write(folder / NOTE, note)


def pending_salvage(paths: Paths, sqlite_path: Path) -> list[Path]:
    """Return the folders with a file that is to be salvaged, the oldest first."""
    found = [
        mark.parent
        for quarantine in quarantines(paths, sqlite_path)
        for mark in quarantine.glob(f"*/{SALVAGE}")
    ]
    return sorted(found, key=lambda folder: folder.name)


def note_salvaged(folder: Path, rows: int | None) -> None:
    """Note that what could be taken from *folder* was taken, and how many rows are left there.

    None: unknown. Raises OSError.
    """
    with contextlib.suppress(OSError, NotThisRecord):
        note = RECORD.read(folder / NOTE)
        if note is not None:
            write_note(folder, {**note, "rows": rows})
    remove_durably(folder / SALVAGE)


def to_be_taken_back(paths: Paths, sqlite_path: Path, attempt: str) -> list[Path]:
    """Return the folders whose file is to be taken back, the oldest first.

    Not those that *attempt* stands for: it has tried them in vain.
    """
    found = []
    for quarantine in quarantines(paths, sqlite_path):
        for file in quarantine.glob(f"*/{glob.escape(sqlite_path.name)}"):
            folder = file.parent
            if (folder / TAKEN).exists() or not file.is_file() or not file.stat().st_size:
                continue
            if content_of(folder).nothing or (attempt and attempt == _tried_by(folder)):
                continue
            found.append(folder)
    return sorted(found, key=lambda folder: folder.name)


def note_taken_back(folder: Path, differing: int) -> None:
    """Note that the rows in *folder* are in use again but for *differing*; raises OSError."""
    note = RECORD.read_or_none(folder / NOTE) or {"file": "", "from": "", "reason": "", "at": ""}
    if differing:
        reason = "these differ from the rows in use; the others were taken back"
        write_note(folder, {**note, "rows": differing, "empty": False, "reason": reason})
    else:  # there is no row in it that is not elsewhere, unless one is still to be salvaged
        salvaged = not (folder / SALVAGE).exists()
        write_note(folder, {**note, "rows": 0, "empty": salvaged})
    write_atomic(folder / TAKEN, "")


def note_tried(folder: Path, attempt: str) -> None:
    """Note that *attempt* could not take *folder* back; raises OSError."""
    write_atomic(folder / TRIED, f"{attempt}\n")


def _tried_by(folder: Path) -> str:
    try:
        return (folder / TRIED).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def list_quarantined(paths: Paths, sqlite_path: Path) -> list[SetAside]:
    """Return the files in quarantine that hold rows, or may; newest first. Never raises."""
    found = []
    for quarantine in quarantines(paths, sqlite_path):
        try:
            entries = sorted(quarantine.iterdir())
        except OSError:  # there is none, or another user asks
            continue
        found += [entry for entry in map(_read, entries) if entry is not None]
    return sorted(found, key=lambda entry: entry.folder.name, reverse=True)


def content_of(folder: Path) -> Content:
    """Return what is in *folder*, one of the quarantine; whatever is unclear counts as rows."""
    try:
        files = {
            entry.name: 0 if entry.is_dir() else entry.stat().st_size
            for entry in folder.iterdir()
            if entry.name not in _MARKS and not entry.name.endswith("-shm")
        }
        folders = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    except OSError:
        return Content((), None, "", 0, nothing=False)
    # An operator may take the file and leave the folder; a -wal alone may hold rows.
    names = sorted(
        name for name, size in files.items() if size or name in folders or not name.endswith("-wal")
    )
    size = sum(files.values())
    if not names:
        return Content((), 0, "", size, nothing=True)
    note = RECORD.read_or_none(folder / NOTE)
    if note is None:  # torn by a power cut
        return Content(tuple(names), None, "", size, nothing=False)
    return Content(tuple(names), note["rows"], note["reason"], size, nothing=note["empty"])


def _read(folder: Path) -> SetAside | None:
    if not folder.is_dir():
        return SetAside(folder.parent, folder.name, None, "")
    content = content_of(folder)
    if not content.names or content.rows == 0:
        return None
    return SetAside(folder, content.names[0], content.rows, content.reason)
