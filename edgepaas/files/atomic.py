# SPDX-License-Identifier: Apache-2.0
"""Whole or not at all: write a temporary file, sync it, rename it, sync the folder."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path


def write_atomic(path: Path, content: bytes | str, *, mode: int = 0o600) -> None:
    """Replace *path* by *content* so that a reader or a power cut sees the old or the new file.

    The temporary file lies in the same folder (a rename is atomic only within one
    file system) and its name is random, so that two writers cannot share it. After a
    failed sync the file is abandoned, never synced again: the kernel has already
    marked its pages clean. Raises OSError; the old file is then still in place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, content, mode, synced=True)
    sync_folder(path.parent)


def write_unsynced(path: Path, content: bytes | str, *, mode: int = 0o600) -> None:
    """Replace *path* by *content*; a reader sees the old or the new file, a power cut may not.

    For ``run/``, which does not outlive a boot: a card is spared a write every few seconds.
    Raises OSError; the old file is then still in place.
    """
    _replace(path, content, mode, synced=False)


def replace_by(
    path: Path,
    temporary: Path,
    fill: Callable[[int], object],
    *,
    mode: int = 0o600,
    synced: bool = True,
    create: bool = True,
) -> None:
    """Have *fill* write to a descriptor of *temporary*, sync that file and rename it to *path*.

    *create*: whether *temporary* is made; else it is there and is overwritten in its own
    blocks. The caller syncs the folder. Raises OSError, or what *fill* raises; *temporary* is
    then gone and *path* as it was.
    """
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
    descriptor = os.open(temporary, flags, mode)
    try:
        try:
            if create:
                os.fchmod(descriptor, mode)  # the umask may have taken bits away
            fill(descriptor)
            if synced:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_all(descriptor: int, data: bytes) -> None:
    """Write *data* to *descriptor*, however many calls that takes; raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def move_durably(finished: Path, path: Path) -> None:
    """Rename *finished*, a file that is synced, to *path* and sync the folder; OSError."""
    finished.replace(path)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Make the content of *path* durable; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes | str, mode: int, *, synced: bool) -> None:
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    replace_by(
        path, temporary, lambda descriptor: write_all(descriptor, data), mode=mode, synced=synced
    )


def remove_durably(path: Path) -> bool:
    """Delete *path* and sync its folder; False when there was nothing to delete."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    sync_folder(path.parent)
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in *folder* durable: a rename is on disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
