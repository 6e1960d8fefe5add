# SPDX-License-Identifier: Apache-2.0
"""Putting a backup into place, on the box that it was made of or on another machine.

The SQLite file keeps its stream: the hub's mark tells whether rows went home after the backup,
and where they did the drainer goes on as a new stream (decision 7). What makes a box the one that
it is (its id, the journal, what it knows of marks) is never set back on the box itself, where it
knows more than the backup; another machine gets it only where it takes the place of the box.
"""

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from edgepaas.backup import archive, contents
from edgepaas.backup.archive import Manifest
from edgepaas.backup.staging import staging_folder
from edgepaas.decision.waiting import Waiting, rows_waiting
from edgepaas.errors import EdgePaaSError
from edgepaas.files.atomic import move_durably, sync_file, sync_folder
from edgepaas.files.locks import LockHeld, held, is_locked
from edgepaas.files.node_identity import MACHINE_ID, Node, machine_of, node_in, write_node
from edgepaas.files.paths import Paths
from edgepaas.files.sqlite_file import (
    forget_damage,
    forget_due_check,
    forget_unclean_stop,
    sidecars,
)
from edgepaas.outbox import versions
from edgepaas.outbox.journal.tables import journal_path, lock_of
from edgepaas.outbox.stream import read_stream
from edgepaas.schema.sqlite import file_operations as files
from edgepaas.sync.losses.lost_state import note_restored

#: Seconds to wait for a process that is about to end.
_LOCK_SECONDS = 5.0


class NotRestored(EdgePaaSError):
    """Nothing was changed; says why and the way out."""


@dataclass(frozen=True)
class Restored:
    """What was put into place; *identity*: this machine is now the box of the backup."""

    manifest: Manifest
    identity: bool
    #: Where what was replaced is kept; None: there was nothing.
    kept: Path | None


def restore(
    source: IO[bytes],
    paths: Paths,
    sqlite_path: Path,
    *,
    same_box: bool = False,
    discard_waiting: bool = False,
    machine_id: Path = MACHINE_ID,
) -> Restored:
    """Put the backup *source* into place; the box must not run.

    *same_box*: this machine takes the place of the one that the backup is of, which is gone for
    good. *discard_waiting*: also where rows wait here that no PostgreSQL has. Raises NotRestored,
    DamagedBackup, NotBackedUp, OSError, LockHeld: nothing of the box was changed then, but for
    OSError of a disk that fails meanwhile, after which the same call may be made again.
    """
    with staging_folder(paths) as folder:
        manifest = archive.extract(source, folder)
        database = _checked(folder, manifest)
        with _stopped(paths, sqlite_path):
            waiting = rows_waiting(sqlite_path)
            _require_nothing_waits(waiting, sqlite_path, discard_waiting)
            here = node_in(paths.node)
            theirs = _node_of(manifest)
            machine = machine_of(machine_id)
            own = here is not None and theirs is not None and here.node_id == theirs.node_id
            begins = (
                theirs is not None and not own and (same_box or theirs.machine == machine != "")
            )
            replaced = _Replaced(paths.state / contents.REPLACED)
            _place_state(folder, paths, replaced, identity=begins)
            if begins or (own and not journal_path(sqlite_path).exists()):
                _place_journal(folder, manifest, sqlite_path)
            if begins and theirs is not None:
                write_node(paths.node, replace(theirs, machine=machine))
            kept = _place_database(database, sqlite_path, paths)
            _note_in_spool(paths, sqlite_path)
            sync_folder(paths.state)
    return Restored(manifest, own or begins, kept or replaced.folder_or_none())


def _note_in_spool(paths: Paths, sqlite_path: Path) -> None:
    """Have the spool, which knows the box and its streams, take them for this machine's own."""
    with contextlib.closing(sqlite3.connect(sqlite_path)) as connection:
        stream = read_stream(connection)
    node = node_in(paths.node)
    if stream is not None and node is not None:
        note_restored(paths, node.node_id, stream.stream_id)


def settings_in(source: IO[bytes], paths: Paths) -> str:
    """Return the settings that the backup *source* holds, as their file has them.

    Raises NotRestored, DamagedBackup, OSError, LockHeld.
    """
    with staging_folder(paths) as folder:
        manifest = archive.extract(source, folder)
        if manifest.one(archive.SETTINGS) is None:
            raise NotRestored("the backup has no settings: the box had no file of them")
        return (folder / contents.SETTINGS_NAME).read_text(encoding="utf-8", errors="replace")


def _checked(folder: Path, manifest: Manifest) -> Path:
    """Return the backup's SQLite file, which is sound and understood by this release."""
    if manifest.one(archive.DATABASE) is None:
        raise NotRestored("the backup has no SQLite file: it was made before the box had one")
    for role in (archive.DATABASE, archive.JOURNAL):
        member = manifest.one(role)
        if member is not None:
            contents.check_sqlite(folder / member.name)
    database = folder / contents.DATABASE_NAME
    with contextlib.closing(sqlite3.connect(database)) as connection:
        if problem := versions.problem(connection):
            raise NotRestored(
                f"the backup is of the release {manifest.build}: {problem}; install that release, "
                "or a newer one, and restore then"
            )
    return database


@contextlib.contextmanager
def _stopped(paths: Paths, sqlite_path: Path) -> Iterator[None]:
    stop = (
        "stop it first: 'systemctl stop edgepaas.socket edgepaas edgepaas-sync', in a container "
        "its 'edgepaas up'"
    )
    for lock in (paths.state_lock, paths.up_lock, paths.serving_lock, paths.sync_lock):
        if is_locked(lock):
            raise NotRestored(f"the box runs ({lock} is held): {stop}")
    try:
        with (
            held(paths.database_lock, timeout=_LOCK_SECONDS),
            held(lock_of(journal_path(sqlite_path)), timeout=_LOCK_SECONDS),
        ):
            yield
    except LockHeld as error:
        raise NotRestored(f"the box runs ({error}): {stop}") from error


def _require_nothing_waits(waiting: Waiting, sqlite_path: Path, discard: bool) -> None:
    if discard or not waiting.may_hold_unsent_rows:
        return
    if not waiting.readable:
        raise NotRestored(
            f"{sqlite_path} cannot be read ({waiting.problem}), so it is not known whether rows "
            "wait in it that PostgreSQL does not have; with --discard-waiting it is set aside"
        )
    raise NotRestored(
        f"{waiting.rows:,} rows of this box wait for PostgreSQL and would not be sent: start the "
        "box and let them go home ('edgepaas sync status'), or restore with --discard-waiting"
    )


def _node_of(manifest: Manifest) -> Node | None:
    if manifest.node is None:
        return None
    fields = manifest.node
    return Node(fields["node_id"], fields["made_at"], fields["machine"], tuple(fields["was"]))


class _Replaced:
    """Where what is replaced goes: one generation, beginning with the first thing replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begun = False

    def take(self, entry: Path) -> None:
        """Move *entry* there, if it is there; raises OSError."""
        if not self._begun:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._begun = True
        with contextlib.suppress(FileNotFoundError):
            # By a copy where it has to be: an overlay renames no folder of its lower layer (EXDEV).
            shutil.move(entry, self._folder / entry.name)

    def folder_or_none(self) -> Path | None:
        """Return the folder, None where nothing was replaced."""
        return self._folder if self._begun else None


def _place_state(folder: Path, paths: Paths, replaced: _Replaced, *, identity: bool) -> None:
    """Put the state folder's files into place, whole folders at once."""
    staged = folder / contents.STATE_FOLDER
    if not staged.is_dir():
        return
    own = {
        path.name
        for path in (
            paths.node,
            paths.marks,
            paths.audit,
            paths.audit_acknowledged,
            paths.acknowledged,
        )
    }
    for entry in sorted(staged.iterdir()):
        target = paths.state / entry.name
        if entry.name == paths.node.name or (entry.name in own and not identity):
            continue
        if entry.name == paths.tokens.name and target.exists():
            continue  # one that was revoked since would be worth something again
        if entry.name == paths.quarantine.name:
            _add_to_quarantine(entry, target)
            continue
        replaced.take(target)
        entry.rename(target)


def _add_to_quarantine(staged: Path, quarantine: Path) -> None:
    quarantine.mkdir(mode=0o700, parents=True, exist_ok=True)
    for entry in sorted(staged.iterdir()):
        if not (quarantine / entry.name).exists():
            entry.rename(quarantine / entry.name)


def _place_journal(folder: Path, manifest: Manifest, sqlite_path: Path) -> None:
    """Put the backup's journal in the place of the one that this machine has begun, if any."""
    path = journal_path(sqlite_path)
    aside = path.with_name(f"{path.name}.{contents.REPLACED}")
    # The sidecars first: a -wal must never meet another database.
    for old, kept in zip((*sidecars(path), path), (*sidecars(aside), aside), strict=True):
        with contextlib.suppress(FileNotFoundError):
            old.rename(kept)
    forget_damage(path)
    if manifest.one(archive.JOURNAL) is not None:
        staged = files.temporary_beside(path)
        shutil.copyfile(folder / contents.JOURNAL_NAME, staged)
        sync_file(staged)
        move_durably(staged, path)


def _place_database(database: Path, sqlite_path: Path, paths: Paths) -> Path | None:
    """Swap the SQLite file; return where the one before it is kept."""
    sqlite_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    files.sweep(sqlite_path)
    staged = files.temporary_beside(sqlite_path)
    try:
        shutil.copyfile(database, staged)
        try:
            kept = files.swap_in(staged, sqlite_path, paths.backups, contents.REPLACED)
        except sqlite3.Error as error:  # it cannot even be opened
            kept = files.move_to_quarantine(
                sqlite_path, paths.quarantine, f"a backup took its place ({error})", salvage=True
            )
            sync_file(staged)
            move_durably(staged, sqlite_path)
    except BaseException:
        files.discard(staged)
        raise
    forget_damage(sqlite_path)
    forget_due_check(sqlite_path)
    forget_unclean_stop(sqlite_path)
    return kept
