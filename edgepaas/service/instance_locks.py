# SPDX-License-Identifier: Apache-2.0
"""Locks on the box's folders: they end with their process, and hold its id as text."""

import fcntl
import logging
import os
from pathlib import Path

from edgepaas.errors import EdgePaaSError
from edgepaas.files.locks import LockHeld, acquire
from edgepaas.files.paths import Paths

logger = logging.getLogger("edgepaas.up")

#: Seconds for which a killed process may still seem to hold a lock, as over a network.
_HANDOVER = 2.0


class AlreadyRunning(EdgePaaSError):
    """Another ``edgepaas up`` runs on the same folders; names the process and the folder."""


def claim_up(paths: Paths) -> int:
    """Take ``run/up.lock`` for this process; returns the descriptor that holds it.

    Two chains on the same folders would start each other again for ever: each decision
    of one is another generation to the other. Raises AlreadyRunning; ConfigurationError where
    this user may not write there.
    """
    try:
        return _claim(paths.up_lock)
    except LockHeld:
        who = _written(paths.up_lock)
        process = f" (process {who})" if who else ""
        raise AlreadyRunning(
            f"EDGEPAAS_HOME={paths.home or paths.runtime}: another 'edgepaas up'{process} runs "
            "there; end it, or give this one an EDGEPAAS_HOME of its own"
        ) from None
    except OSError as error:
        why = f"cannot be written ({error.strerror or error})"
        raise paths.unusable(paths.runtime, why) from error


def claim_state(paths: Paths) -> int | None:
    """Take ``up.lock`` in the state folder for this process; returns its descriptor.

    Two containers have a run/ each, and may have one volume between them: two drainers would
    send the same rows. None where nothing can be locked, as on a disk that is full or has
    become read-only: the stages report that, and what can be done. Raises AlreadyRunning;
    ConfigurationError where this user may not write.
    """
    try:
        return acquire(paths.state_lock, timeout=_HANDOVER)
    except LockHeld:
        raise AlreadyRunning(
            f"{paths.state}: another 'edgepaas up' works there; end it, or give this one a state "
            "folder (in a container: a volume) of its own"
        ) from None
    except PermissionError as error:
        why = f"cannot be written ({error.strerror or error})"
        raise paths.unusable(paths.state, why) from error
    except OSError as error:
        why = error.strerror or str(error)
        logger.warning(
            "%s cannot be locked: %s; continuing without the lock", paths.state_lock, why
        )
        return None


def claim_serving(paths: Paths) -> int | None:
    """Take ``run/serving.lock``; returns its descriptor, None when another service has it.

    It excludes no other service: a new one may start while the last one still drains.
    """
    try:
        # Another process may be testing the lock at this moment (serving_process).
        return _claim(paths.serving_lock, timeout=0.1)
    except LockHeld:
        return None


def serving_process(paths: Paths) -> int | None:
    """Return the process id of the service that runs on *paths*, 0 when it cannot be read.

    None when there is none, or when this user may not know.
    """
    try:
        descriptor = os.open(paths.serving_lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # Not LOCK_SH: the unit's flock(1) holds the lock shared.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _written(paths.serving_lock)
    finally:
        os.close(descriptor)
    return None


def _claim(path: Path, *, timeout: float = 0.0) -> int:
    descriptor = acquire(path, timeout=timeout)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
    return descriptor


def _written(path: Path) -> int:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
