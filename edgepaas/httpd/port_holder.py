# SPDX-License-Identifier: Apache-2.0
"""Who holds a TCP port: read from /proc, as far as this user may look."""

import contextlib
from pathlib import Path

_LISTEN = "0A"  # TCP_LISTEN in the kernel's net/tcp_states.h
_PROC = Path("/proc")


def port_holder(port: int, proc: Path = _PROC) -> str:
    """Return ``nginx (process 812)`` for who listens on *port*, or "" when that is not visible."""
    inodes = _listening_inodes(port, proc)
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for folder in proc.iterdir():
        if folder.name.isdigit() and _holds(folder, wanted):
            return f"{_name(folder)} (process {folder.name})"
    return ""


def _listening_inodes(port: int, proc: Path) -> set[str]:
    inodes = set()
    for table in ("net/tcp", "net/tcp6"):
        try:
            lines = (proc / table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue  # no IPv6, or /proc is restricted
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes


def _holds(folder: Path, wanted: set[str]) -> bool:
    # Processes end while one looks, and other users' descriptors are not ours to see.
    with contextlib.suppress(OSError):
        for entry in (folder / "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(entry.readlink()) in wanted:
                    return True
    return False


def _name(folder: Path) -> str:
    try:
        return (folder / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "a process"
