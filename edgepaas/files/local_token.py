# SPDX-License-Identifier: Apache-2.0
"""``run/local-token``: the token of this box's own commands.

Whoever may read the file is root or the service's user, who own every token already. It is made
once a boot, so that a service which takes over accepts what a command has just read.
"""

import contextlib
import os
import secrets
from pathlib import Path

from edgepaas.files.atomic import write_all

#: As tokens of people begin; what follows shows where it comes from.
_PREFIX = "edgepaas_local_"
_LONGEST = 256


def read_local_token(path: Path) -> str:
    """Return the token, empty where there is none that this user may read. Never raises."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            text = os.read(descriptor, _LONGEST + 1).decode("ascii").strip()
        finally:
            os.close(descriptor)
        if text.startswith(_PREFIX) and len(text) <= _LONGEST:
            return text
    return ""


def make_local_token(path: Path) -> str:
    """Return the token, made where there is none yet; raises OSError."""
    if found := read_local_token(path):
        return found
    made = _PREFIX + secrets.token_urlsafe(32)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, f"{made}\n".encode())
        try:
            os.link(temporary, path)  # of two processes that make one, the first counts
        except FileExistsError:
            if found := read_local_token(path):
                return found
            temporary.replace(path)  # it is none
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
    return made
