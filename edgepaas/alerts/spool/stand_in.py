# SPDX-License-Identifier: Apache-2.0
"""Where the spool lies while its disk is dead: in ``run/``, which is memory.

The way of an alert must not depend on what it reports. What was accepted there is delivered from
there, under the same keys, and taken over once the disk can be written again.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import replace

from edgepaas.alerts.spool.accept import NotSpooled, Spool
from edgepaas.alerts.spool.alert import Alert
from edgepaas.alerts.spool.folders import SpoolFolders
from edgepaas.files.paths import Paths

#: A full disk is no dead one: the spool keeps room for it.
_FULL = (errno.ENOSPC, errno.EDQUOT)


def stand_in(paths: Paths) -> Paths:
    """Return the box's paths with a spool in ``run/``."""
    return replace(paths, spool=paths.runtime / "spool")


def is_usable(paths: Paths) -> bool:
    """Whether the disk of the spool takes a write, or is only full."""
    try:
        SpoolFolders(paths.alerts).prepare()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(paths.alerts / "probe", flags, 0o600)
        try:
            os.pwrite(descriptor, b".", 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        return error.errno in _FULL
    return True


def accept_anywhere(paths: Paths, accept: Callable[[Spool], Alert]) -> Alert:
    """Have *accept* keep an alert in the spool, or in ``run/`` where its disk is dead.

    Raises NotSpooled.
    """
    try:
        return accept(Spool(paths))
    except NotSpooled as refused:
        try:
            return accept(Spool(stand_in(paths)))
        except NotSpooled:
            raise refused from None
