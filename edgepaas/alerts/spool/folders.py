# SPDX-License-Identifier: Apache-2.0
"""The spool's folders: files in them are whole or not there, and a full disk still takes some.

``tmp`` holds what is being written, ``new`` what was accepted, ``conditions`` what is known
of each cause, ``dead`` what every channel refused, ``corrupt`` what is
damaged or foreign, ``reserve`` room for a full disk.
"""

import contextlib
import errno
import os
from pathlib import Path

from edgepaas.files.atomic import replace_by, sync_folder, write_all

FOLDERS = ("tmp", "new", "conditions", "dead", "corrupt", "reserve")

#: Kept back, to be overwritten in place where the disk has no room for a new file.
SLOT_BYTES = 16 * 1024
SLOTS = 24

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: Kept of what was damaged: for a person to look at, not to fill the disk.
_MOST_CORRUPT = 100


class SpoolFolders:
    """The folders below *root*, the spool's own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.new = root / "new"
        self.conditions = root / "conditions"
        self.dead = root / "dead"
        self.corrupt = root / "corrupt"

    def prepare(self) -> None:
        """Make the folders that are missing, for the owner alone; raises OSError."""
        for folder in (self.root, *(self.root / name for name in FOLDERS)):
            if not folder.is_dir():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_folder(folder.parent)

    def is_without_conditions(self) -> bool:
        """Whether no cause was ever kept; False where that cannot be seen."""
        try:
            with os.scandir(self.conditions) as entries:
                return next(entries, None) is None
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def put(self, path: Path, content: bytes) -> None:
        """Have *path*, below the root, hold *content*, durably; raises OSError.

        Written to a file of its own, synced, renamed, folder synced. After a failed sync
        that file is given up and another one written, once: the kernel has marked the
        pages of the first clean. Without room for a new file one of the reserve is used.
        """
        try:
            self._put(path, content)
        except OSError as error:
            if error.errno == errno.ENOENT:
                self.prepare()
            elif error.errno in _NO_ROOM:
                if self._put_from_reserve(path, content):
                    return
                raise
            elif error.errno != errno.EIO:
                raise
            self._put(path, content)

    def overwrite(self, path: Path, content: bytes) -> None:
        """Have an existing *path* hold *content*, in its own blocks; raises OSError.

        Not atomic: for what is better torn, and seen to be, than out of date.
        """
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_blocks * 512 < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.pwrite(descriptor, content, 0)
            os.ftruncate(descriptor, len(content))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Delete *path*, durably; raises OSError. One that is gone is no error."""
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            sync_folder(path.parent)

    def set_corrupt(self, path: Path) -> Path:
        """Move a damaged or foreign file out of the way; returns where it lies now.

        Raises OSError. Only the newest hundred are kept.
        """
        target = self.corrupt / f"{path.name[-180:]}.{os.urandom(3).hex()}"
        try:
            path.rename(target)
        except FileNotFoundError:
            self.corrupt.mkdir(mode=0o700, exist_ok=True)
            path.rename(target)
        sync_folder(path.parent)
        kept = [(entry.stat(follow_symlinks=False).st_ctime, entry.path) for entry in
                os.scandir(self.corrupt) if not entry.is_dir(follow_symlinks=False)]  # fmt: skip
        for _, old in sorted(kept)[:-_MOST_CORRUPT]:
            Path(old).unlink(missing_ok=True)
        return target

    def replenish(self) -> None:
        """Fill the reserve up again, as far as there is room."""
        reserve = self.root / "reserve"
        reserve.mkdir(mode=0o700, exist_ok=True)
        for number in range(SLOTS):
            slot = reserve / f"{number:02d}"
            with contextlib.suppress(FileNotFoundError):
                if slot.stat().st_size == SLOT_BYTES:
                    continue
            try:
                # Not synced: one that a power cut empties is filled again.
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                with os.fdopen(os.open(slot, flags, 0o600), "wb") as file:
                    file.write(b"\0" * SLOT_BYTES)
            except OSError:  # the disk is full now: the slots that are there have to do
                with contextlib.suppress(OSError):
                    slot.unlink()
                return

    def clean(self, now: float) -> None:
        """Delete what killed writers left in ``tmp``, older than ten minutes at *now* (wall)."""
        for entry in os.scandir(self.root / "tmp"):
            with contextlib.suppress(FileNotFoundError):
                # A clock that leapt makes it look older or younger than it is; a writer whose
                # file is taken from it writes another.
                if abs(now - entry.stat(follow_symlinks=False).st_mtime) > 600:
                    Path(entry.path).unlink()

    def _put(self, path: Path, content: bytes) -> None:
        replace_by(path, self._temporary(path), lambda descriptor: write_all(descriptor, content))
        sync_folder(path.parent)

    def _put_from_reserve(self, path: Path, content: bytes) -> bool:
        """Overwrite a file of the reserve, which needs no new block; False when none is left."""
        if len(content) > SLOT_BYTES:
            return False
        temporary = self._temporary(path)
        for slot in sorted((self.root / "reserve").iterdir()):
            try:
                slot.rename(temporary)
            except FileNotFoundError:
                continue  # another writer took it
            if temporary.stat(follow_symlinks=False).st_size < len(content):
                temporary.unlink()
                continue

            def fill(descriptor: int) -> None:
                write_all(descriptor, content)
                os.ftruncate(descriptor, len(content))

            replace_by(path, temporary, fill, create=False)
            sync_folder(path.parent)
            return True
        return False

    def _temporary(self, path: Path) -> Path:
        return self.root / "tmp" / f"{path.name[:180]}.{os.getpid()}.{os.urandom(4).hex()}"
