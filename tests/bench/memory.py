# SPDX-License-Identifier: Apache-2.0
"""What each process of a box takes while it is idle, after a load, and the plain application."""

import contextlib
import time
from pathlib import Path

from tests.bench.load import run_load
from tests.bench.loads import post
from tests.bench.servers import AWAY, Server, family, running_box, running_plain

_NAMES = ("serve", "sync", "alerts", "up")


def measure_memory(home: Path, *, settle: float) -> dict[str, dict[str, dict[str, float]]]:
    """Return {box: {process: {rss, pss, …}}} in MiB; *settle* seconds pass before each look.

    RSS counts what processes share in each of them, PSS counts it once in all.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    with contextlib.ExitStack() as stack:
        boxes = {
            "standalone": stack.enter_context(running_box(home / "alone")),
            "local-first, hub away": stack.enter_context(
                running_box(home / "capture", DATABASE_URL=AWAY, USE_SQLITE="true")
            ),
            "plain application": stack.enter_context(running_plain(home / "plain")),
        }
        for name, server in boxes.items():
            time.sleep(settle)
            found[name] = _look(name, server)
        for name in ("standalone", "plain application"):
            run_load(boxes[name], post(1), connections=16, seconds=1.0)
            time.sleep(settle)
            found[f"{name}, after a load"] = _look(f"{name}, after a load", boxes[name])
    return found


def _look(title: str, server: Server) -> dict[str, dict[str, float]]:
    found = {}
    for pid in family(server.parent):
        name = _name_of(pid, server)
        found[name] = memory_of(pid)
        rss, pss, own = (found[name][kind] for kind in ("rss", "pss", "private"))
        print(
            f"  {title:<34}{name:<9}{rss:>8.1f} RSS{pss:>8.1f} PSS{own:>8.1f} private MiB",
            flush=True,
        )
    return found


def _name_of(pid: int, server: Server) -> str:
    """The sub-command; of the process that answers, what it does: it may be no program's name."""
    if pid == server.pid:
        return "serve" if pid != server.parent else "server"
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return next((name for name in _NAMES if name in words), words[0])


def memory_of(pid: int) -> dict[str, float]:
    """Return resident, proportional and private memory of a process, in MiB (proc_pid_smaps(5))."""
    kib: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        kib[name] = int(value.split()[0])
    return {
        "rss": kib["Rss"] / 1024,
        "pss": kib["Pss"] / 1024,
        "private": (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024,
    }
