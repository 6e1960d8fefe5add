# SPDX-License-Identifier: Apache-2.0
"""The ballast: space that is kept back, and given up when the disk is full.

In WAL mode deleting rows writes first: on a disk without a free byte nothing can be
deleted, so nothing would ever become free by itself.
"""

import contextlib
import os
import shutil
from pathlib import Path

from edgepaas.files.atomic import remove_durably, sync_folder


def reserve(path: Path, size: int, *, spare: int) -> bool:
    """Reserve *size* bytes as *path*; whether they are reserved now.

    Nothing is taken from a disk that would be left with less than *spare* bytes, so that a
    ballast just given up is not taken back while there is need of it. Never raises OSError:
    a box without a ballast runs as well.
    """
    try:
        if path.is_file() and path.stat().st_size == size:
            return True
        if size == 0:
            remove_durably(path)
            return False
        if shutil.disk_usage(path.parent).free < size + spare:
            return False
        _allocate(path, size)
    except OSError:
        return False
    return True


def release(path: Path) -> bool:
    """Let the disk have the space; whether there was any. Never raises OSError."""
    try:
        return remove_durably(path)
    except OSError:
        return False


def _allocate(path: Path, size: int) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.posix_fallocate(descriptor, 0, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)
