# SPDX-License-Identifier: Apache-2.0
"""Advisory locks that die with their process: flock(2), never a pid file."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from edgepaas.errors import EdgePaaSError


class LockHeld(EdgePaaSError):
    """Another process holds the lock and did not let go within the bound."""


@contextlib.contextmanager
def held(path: Path, *, shared: bool = False, timeout: float = 10.0) -> Iterator[None]:
    """Hold ``flock`` on *path* for the block; waits up to *timeout* seconds, then LockHeld.

    The lock file is never deleted: a process that waits on a deleted file and one
    that opens the new file of the same name would both believe that they hold it.
    """
    descriptor = acquire(path, shared=shared, timeout=timeout)
    try:
        yield
    finally:
        os.close(descriptor)


def acquire(path: Path, *, shared: bool = False, timeout: float = 10.0) -> int:
    """Take ``flock`` on *path* and return the descriptor that holds it until it is closed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, operation)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                raise LockHeld(
                    f"{path} is locked by another process (waited {timeout:g} s); "
                    f"'fuser {path}' names it"
                ) from None
            time.sleep(0.02)
        except BaseException:
            os.close(descriptor)
            raise


def is_locked(path: Path) -> bool:
    """Whether a process holds ``flock`` on *path*; False also where there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
