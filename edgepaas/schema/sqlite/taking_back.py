# SPDX-License-Identifier: Apache-2.0
"""A file in quarantine comes back by itself once what was wrong with it was mended.

A copy of it is checked to its end and migrated, and its rows are merged into the file in use.
What does not work is tried again by the next release, or by ``edgepaas schema --repair``; what
kept it for a passing cause (a full disk, a lock, a link that was lost), at each start.
"""

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.build import build_version
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.errors import DatabaseFull
from edgepaas.files.paths import Paths
from edgepaas.files.sqlite_file import open_refusal_reason, wal_of
from edgepaas.schema.chain import Chain, Revisions, show
from edgepaas.schema.errors import SchemaError, brief
from edgepaas.schema.ownership import ownership_of_file
from edgepaas.schema.sqlite import file_operations as files
from edgepaas.schema.sqlite import quarantine
from edgepaas.schema.sqlite.error_classes import passes_by_itself
from edgepaas.schema.sqlite.inspection import versions_in

if TYPE_CHECKING:
    from sqlalchemy import MetaData

    from edgepaas.schema.sqlite.merging import Merged

logger = logging.getLogger("edgepaas.schema")

Models = Callable[[], "MetaData | None"]

#: Seconds for the check of a file in quarantine: the box does not serve meanwhile.
CHECK_SECONDS = 120.0
#: A copy and the rows themselves are written, beside what a write-ahead log takes.
_ROOM = 3


@dataclass(frozen=True)
class TakenBack:
    """What became of the files in quarantine, a line each."""

    done: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


def attempt_of(chain: Chain) -> str:
    """Return what stands for this build and its migrations: by others a file is tried anew."""
    stamps: list[object] = [build_version(), chain.name]
    for script in chain.scripts():
        with contextlib.suppress(OSError):
            stamps.append((script.name, script.read_bytes()))
    return hashlib.sha256(repr(stamps).encode()).hexdigest()[:32]


def take_back(
    path: Path, paths: Paths, chain: Chain, models: Models, *, again: bool = False
) -> TakenBack:
    """Bring what is set aside of the file *path*, which is at head, back into it.

    *again*: also what was tried in vain by this build. With the lock held shared at least;
    never raises: a file that stays aside keeps no box from serving.
    """
    attempt = attempt_of(chain)
    done: list[str] = []
    failed: list[str] = []
    for folder in quarantine.to_be_taken_back(paths, path, "" if again else attempt):
        try:
            merged = _take(folder / path.name, path, chain, models)
            quarantine.note_taken_back(folder, merged.differing)
        except Exception as error:  # whatever it is: the file is kept, and the box serves
            logger.warning("%s cannot be taken back: %s", folder / path.name, brief(error))
            logger.debug("%s cannot be taken back", folder / path.name, exc_info=error)
            failed.append(f"{folder / path.name} cannot be taken back yet: {brief(error)}")
            if not passes_by_itself(error):
                with contextlib.suppress(OSError):
                    quarantine.note_tried(folder, attempt)
            continue
        line = f"{merged.rows:,} rows of {folder / path.name} were taken back"
        if merged.differing:
            line += f"; {merged.differing:,} more differ from those in use, and stay there"
        logger.warning("%s", line)
        done.append(line)
    return TakenBack(tuple(done), tuple(failed))


def _take(aside: Path, path: Path, chain: Chain, models: Models) -> "Merged":
    from edgepaas.schema.sqlite.merging import merge

    _check_room(aside, path)
    if reason := open_refusal_reason(aside):
        raise SchemaError(reason)
    with _raw_copy(aside, path) as copy:
        with contextlib.closing(open_sqlite(copy)) as connection:
            problem = files.problem_of(connection, seconds=CHECK_SECONDS, thorough=True)
        if problem is None:
            raise SchemaError(f"its check takes longer than {CHECK_SECONDS:g} s")
        if problem:
            raise SchemaError(f"it is damaged: {problem}")
        _require_own(copy, chain)
        if chain.unwritten or _revisions(copy, chain) != _revisions(path, chain):
            # What waited there is in the outbox of the file in use, and goes home from it.
            waits = (aside.parent / quarantine.SALVAGE).exists()
            _migrate(copy, path, chain, models, waits=waits)
        with contextlib.closing(open_sqlite(path)) as connection:
            return merge(connection, copy, f"{aside.parent.name}/{aside.name}")


def _migrate(copy: Path, path: Path, chain: Chain, models: Models, *, waits: bool) -> None:
    """Bring *copy* to where the file in use is; raises what the migration raises."""
    from edgepaas.schema.sqlite.copies import finished_copy, incompatibility
    from edgepaas.schema.sqlite.migrate import bring_copy

    metadata = models()
    before = _revisions(copy, chain)
    with finished_copy(path, copy) as (migrated, connected):
        if before != chain.heads:
            bring_copy(connected, chain, metadata, before, waits=waits)
    try:
        files.check_copy(migrated)
        here, used = _revisions(migrated, chain), _revisions(path, chain)
        if here != used:
            raise SchemaError(f"it is at {show(here or ())}, the file in use at {show(used or ())}")
        if lacking := incompatibility(migrated, chain, metadata):
            raise SchemaError(lacking)
        files.discard(copy)  # with its -wal, which must never meet another file
        migrated.replace(copy)
    except BaseException:
        files.discard(migrated)
        raise


def _require_own(file: Path, chain: Chain) -> None:
    """Raise SchemaError where *file* bears the name of another application."""
    with contextlib.closing(open_sqlite(file)) as connection:
        other = ownership_of_file(connection, chain).other(chain)
    if other:
        raise SchemaError(f"it is the application {other}'s")


def _revisions(file: Path, chain: Chain) -> Revisions | None:
    with contextlib.closing(open_sqlite(file)) as connection:
        return versions_in(connection, chain)


@contextlib.contextmanager
def _raw_copy(aside: Path, path: Path) -> Iterator[Path]:
    """Give a copy of *aside* and its -wal beside *path*: SQLite changes a file that it opens."""
    copy = files.temporary_beside(path)
    try:
        shutil.copyfile(aside, copy)
        if wal_of(aside).is_file():
            shutil.copyfile(wal_of(aside), wal_of(copy))
        yield copy
    finally:
        files.discard(copy)


def _check_room(aside: Path, path: Path) -> None:
    status = os.statvfs(path.parent)
    needed = _ROOM * aside.stat().st_size
    if status.f_bavail * status.f_frsize < needed:
        raise DatabaseFull(f"less than {needed >> 20:,} MiB are free on the disk")
