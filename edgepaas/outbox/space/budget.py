# SPDX-License-Identifier: Apache-2.0
"""The disk budget of the SQLite file: how much of it is used, and what follows from that. Pure."""

import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Level = Literal["ok", "alert", "shed", "full"]

#: From which share of the budget on each level holds.
LEVEL_STARTS: dict[Level, float] = {"ok": 0.0, "alert": 0.70, "shed": 0.85, "full": 0.95}
#: A level ends so far below its beginning, or one row more or less would change it.
HYSTERESIS = 0.02
#: Making room goes on until no more than this share is used.
TARGET_SHARE = 0.65

_HIGHEST_FIRST: tuple[Level, ...] = ("full", "shed", "alert")
_GIB = 1024**3
_SHARE_OF_DISK = 0.20


@dataclass(frozen=True)
class Usage:
    """Bytes that rows take, of the bytes that they may."""

    used: int
    budget: int

    @property
    def share(self) -> float:
        """The used part of the budget, 0.0 and up."""
        return self.used / self.budget

    @property
    def text(self) -> str:
        """Return it for a person."""
        return f"{self.used / 1024**2:.1f} of {self.budget / 1024**2:.1f} MiB ({self.share:.0%})"

    def beyond(self, share: float) -> int:
        """Return how many bytes are used beyond *share* of the budget; 0: none."""
        return max(0, self.used - int(self.budget * share))


def budget_of(path: Path, configured: int) -> int:
    """Return the budget in bytes: *configured*, or by 0 the smaller of 1 GiB and 20 % of the disk.

    Raises OSError when the folder of *path* cannot be looked at.
    """
    if configured:
        return configured
    return min(_GIB, int(shutil.disk_usage(path.parent).total * _SHARE_OF_DISK))


def usage(connection: sqlite3.Connection, budget: int) -> Usage:
    """Return what the rows in the open file take; free pages are room. Raises sqlite3.Error."""
    pages, free, size = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return Usage((pages - free) * size, budget)


def level(share: float, before: Level = "ok") -> Level:
    """Return the level at *share*, where *before* held until now."""
    for name in _HIGHEST_FIRST:
        start = LEVEL_STARTS[name]
        if LEVEL_STARTS[before] >= start:
            start -= HYSTERESIS  # it was reached before
        if share >= start:
            return name
    return "ok"
