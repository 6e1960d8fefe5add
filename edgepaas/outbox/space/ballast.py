# SPDX-License-Identifier: Apache-2.0
"""The ballast: space that is kept back, and given up when the disk is full.

In WAL mode deleting rows writes first: on a disk without a free byte nothing can be
deleted, so nothing would ever become free by itself.
"""

import os
import shutil
from pathlib import Path

from edgepaas.files.atomic import remove_durably, replace_by, sync_folder


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
    temporary.unlink(missing_ok=True)  # of a run that was killed
    replace_by(path, temporary, lambda descriptor: os.posix_fallocate(descriptor, 0, size))
    sync_folder(path.parent)
