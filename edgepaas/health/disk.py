# SPDX-License-Identifier: Apache-2.0
"""Whether the folders of the box can be written and have room."""

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from edgepaas.health.checks import CheckFailed

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


#: With fewer files to be created than these, the next rotation or spool entry may be the last.
_LEAST_FILES = 64


def _files_left(folder: Path) -> float:
    """Return how many files can still be created; endless where the file system does not count."""
    found = os.statvfs(folder)
    return found.f_favail if found.f_files else float("inf")


def check_writable(folder: Path, least_free: int) -> str:
    """Write, sync and delete a small file in *folder*; CheckFailed where that is not possible.

    *least_free* is in bytes. A full disk leaves the box ready, in the state ``full``:
    what is stored can still be read.
    """
    probe = folder / f".write-check.{os.getpid()}"
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b"edgepaas\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            probe.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _no_room(f"{folder}: {error.strerror}") from None
        raise CheckFailed(
            f"{folder} cannot be written ({error.strerror}): look at its owner and its mount"
        ) from None
    return check_room(folder, least_free)


def check_room(folder: Path, least_free: int) -> str:
    """Look, without writing, whether *least_free* bytes are free on the disk of *folder*."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise CheckFailed(f"{folder}: {error.strerror}") from None
    if _files_left(folder) < _LEAST_FILES:
        raise _no_room(
            f"{folder}: no more files can be created, though {free >> 20} MiB are free (inodes; "
            f"'du --inodes -xd2 {folder} | sort -n | tail' shows where they are)"
        )
    if free < least_free:
        least = f"DISK_MIN_FREE={least_free >> 20} MiB"
        raise _no_room(f"{folder}: {free >> 20} MiB free, less than {least}")
    return f"{folder} is writable, {free >> 20} MiB free"


def writable_probe(
    folder: Path,
    least_free: int,
    *,
    write_every: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[], str]:
    """Return a probe that writes every *write_every* seconds and else only looks at the room.

    A probe a second that syncs a file would wear a flash card out. After a finding the
    next probe writes again.
    """
    written_at: float | None = None

    def probe() -> str:
        nonlocal written_at
        if written_at is not None and clock() - written_at < write_every:
            try:
                return check_room(folder, least_free)
            except CheckFailed:
                written_at = None
                raise
        message = check_writable(folder, least_free)
        written_at = clock()
        return message

    return probe


def _no_room(message: str) -> CheckFailed:
    return CheckFailed(f"{message}: make room", consequence="full", ready=True)
