# SPDX-License-Identifier: Apache-2.0
"""What a box collects over the years, tidied at each boot, never at the cost of rows."""

import contextlib
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from edgepaas.alerts.catalogue import QUARANTINE_PRUNED
from edgepaas.files.paths import Paths
from edgepaas.files.sqlite_file import sidecars, wrong_file_type
from edgepaas.schema.sqlite import file_operations as files
from edgepaas.schema.sqlite.quarantine import Content, content_of, quarantines

logger = logging.getLogger("edgepaas.schema")

#: Seconds after which the temporary file of an atomic write is a killed process's.
_ABANDONED = 3600.0


@dataclass(frozen=True)
class _Kept:
    folder: Path
    content: Content

    @property
    def rank(self) -> tuple[bool, int, int]:
        """What goes first when the disk is full: the fewest rows; uncounted ones may be all."""
        rows = self.content.rows
        return rows is None, rows or 0, self.content.size


def tidy(paths: Paths, sqlite_path: Path, *, least_free: int = 0) -> None:
    """Remove abandoned temporaries and what is no file at the lock's path, prune the quarantine.

    *least_free*: bytes; with less of them free, set-aside files with rows go too, down to
    the two with the most.
    """
    for folder in {paths.runtime, paths.state}:
        _sweep_temporaries(folder)
    if wrong_file_type(paths.database_lock) == "a directory":
        _move_away(paths.database_lock, paths, "a directory was in the place of the lock file")
    for quarantine in quarantines(paths, sqlite_path):
        try:
            if quarantine.is_dir():
                _prune(quarantine, least_free)
        except OSError as error:  # room that is not made now is made at the next boot
            logger.warning("%s cannot be tidied: %s", quarantine, error)


def clear_reserved_paths(path: Path, paths: Paths) -> None:
    """Move away what is no file at the paths of the -wal and its like; with the lock held.

    Only beside a sound file: with an unsound one they are set aside together.
    """
    if path.exists() and not wrong_file_type(path):
        for file in sidecars(path):
            kind = wrong_file_type(file)
            if kind:
                _move_away(file, paths, f"{kind} was in its place")
    if paths.backups.exists() and not paths.backups.is_dir():
        _move_away(paths.backups, paths, "it was in the place of the folder of copies")


def _move_away(thing: Path, paths: Paths, reason: str) -> None:
    folder = files.move_to_quarantine(thing, paths.quarantine, reason)
    logger.warning("%s was moved to %s: %s", thing, folder, reason)


def _sweep_temporaries(folder: Path) -> None:
    """Remove what killed atomic writes left; a fresh one may be a running process's."""
    for leftover in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            if leftover.is_file() and time.time() - leftover.stat().st_mtime > _ABANDONED:
                leftover.unlink()
                logger.info("removed %s, which a killed process left", leftover)


def _prune(quarantine: Path, least_free: int) -> None:
    holding: list[_Kept] = []
    empty: list[_Kept] = []
    for folder in sorted(quarantine.iterdir()):
        if not folder.is_dir() or not folder.name[:6].isdecimal():
            continue  # none of ours
        content = content_of(folder)
        (empty if content.nothing else holding).append(_Kept(folder, content))
    for kept in empty[: -files.KEPT]:
        logger.info("removing %s: there is no row in it", kept.folder)
        _remove(kept.folder)
    holding.sort(key=lambda kept: kept.rank)
    while len(holding) > files.KEPT and _free(quarantine) < least_free:
        least = holding.pop(0)
        rows = least.content.rows
        said = "rows that could not be counted" if rows is None else f"{rows:,} unsent rows"
        QUARANTINE_PRUNED.raise_alert(
            f"less than DISK_MIN_FREE={least_free >> 20} MiB is free, so {least.folder} was "
            f"deleted, with {said}: of what is set aside it held the fewest"
        )
        _remove(least.folder)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        logger.warning("%s cannot be removed: %s", folder, error)


def _free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
