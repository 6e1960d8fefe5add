# SPDX-License-Identifier: Apache-2.0
"""Programs of another CPU: qemu-user behind the kernel's binfmt_misc."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.system.network import run
from tests.system.roots import CACHE

BINFMT = Path("/proc/sys/fs/binfmt_misc")
HANDLER = "qemu-aarch64"
#: What qemu-user-static installs for systemd-binfmt(8), which runs nowhere in a container.
RULE = Path("/usr/lib/binfmt.d") / f"{HANDLER}.conf"


class CannotEmulate(RuntimeError):
    """This machine runs no arm64 programs; the message says why."""


@contextlib.contextmanager
def arm64_programs() -> Iterator[None]:
    """Let the kernel run arm64 programs; afterwards the machine is as it was found.

    One test run at a time: another's handler would vanish under it. Raises CannotEmulate.
    """
    if os.uname().machine == "aarch64":
        yield
        return
    with contextlib.ExitStack() as undo:
        CACHE.mkdir(parents=True, exist_ok=True)
        lock = undo.enter_context((CACHE / "emulation.lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            _mount(undo)
            if not _is_handled():
                _register(undo)
        except (OSError, RuntimeError) as error:
            raise CannotEmulate(f"no arm64 programs here: {str(error)[-300:]}") from error
        yield


def _mount(undo: contextlib.ExitStack) -> None:
    # Looked at by a name in it, since on a whole system this mounts it (an automount).
    if not (BINFMT / "register").exists():
        run("mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT))
        undo.callback(run, "umount", str(BINFMT), check=False)
    if (BINFMT / "status").read_text().strip() != "enabled":
        raise CannotEmulate(f"{BINFMT}/status: disabled by whoever runs this machine")


def _is_handled() -> bool:
    """Say whether there is a handler, held open by the kernel (F): no root carries qemu."""
    with contextlib.suppress(FileNotFoundError):
        lines = (BINFMT / HANDLER).read_text().splitlines()
        return "enabled" in lines and any(
            line.startswith("flags:") and "F" in line for line in lines
        )
    return False


def _register(undo: contextlib.ExitStack) -> None:
    if shutil.which("qemu-aarch64-static") is None or not RULE.is_file():
        raise CannotEmulate("the package qemu-user-static is not installed")
    rules = [line for line in RULE.read_text().splitlines() if line.startswith(":")]
    (BINFMT / "register").write_text(rules[0])
    undo.callback((BINFMT / HANDLER).write_text, "-1")  # removes it
