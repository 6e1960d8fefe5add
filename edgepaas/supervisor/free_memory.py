# SPDX-License-Identifier: Apache-2.0
"""How much memory another process may take here: the machine's, or the container's."""

from pathlib import Path


def free_memory(root: Path = Path("/")) -> int:
    """Return the bytes that are free, by the machine and by the limit of the control group.

    Read from /proc/meminfo (proc_meminfo(5)) and from the group's memory.max and
    memory.current (the kernel's cgroup-v2). What cannot be read sets no limit.
    """
    free = [_available(root / "proc" / "meminfo")]
    group = root / "sys" / "fs" / "cgroup"
    limit, used = _number(group / "memory.max"), _number(group / "memory.current")
    if limit is not None and used is not None:
        free.append(limit - used)
    return min((number for number in free if number is not None), default=_UNKNOWN)


#: No machine has more.
_UNKNOWN = 1 << 62


def _available(meminfo: Path) -> int | None:
    try:
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None
    return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max": no limit
        return None
