# SPDX-License-Identifier: Apache-2.0
"""The disk budget watched while SQLite serves: make room, alert, refuse writes at last."""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgepaas.alerts.catalogue import DISK_BUDGET, ROWS_SHED
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.errors import DatabaseError
from edgepaas.files.locks import LockHeld, held
from edgepaas.files.size_limit import SizeLimit, wal_excess
from edgepaas.files.sqlite_file import wal_of
from edgepaas.outbox import versions
from edgepaas.outbox.journal.access import JournalUnreadable
from edgepaas.outbox.journal.space import shrink, usage_of_both, usage_of_journal
from edgepaas.outbox.resending import fact_copies
from edgepaas.outbox.space import ballast, budget, vacuum
from edgepaas.outbox.space.retention import reclaim
from edgepaas.outbox.space.shedding import LowValue, read_low_value, shed
from edgepaas.timing.periodic_task import PeriodicTask, TaskAlert

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths
    from edgepaas.health.state import StateBoard
    from edgepaas.settings import Settings

#: Seconds between two looks; sooner when a write found the disk full.
LOOK_EVERY = 5.0
#: Seconds that one look may take: it gives up rows on a slow card, with a vacuum after it.
LATE_AFTER = 300.0
#: Steps of making room in one look, each of some hundred to some thousand rows.
_STEPS = 100
_BUSY_TIMEOUT = 2.0
#: Bytes that must stay free beside a ballast that is taken (again).
_SPARE = 32 * 1024**2

_KEY = "budget"

logger = logging.getLogger("edgepaas.service")


@dataclass(frozen=True)
class Limits:
    """What the operator set: bytes of the budget (0: by the disk) and of the ballast."""

    budget: int
    ballast: int
    low_value: tuple[LowValue, ...]

    @classmethod
    def of(cls, settings: "Settings") -> "Limits":
        """Read the settings; what of LOW_VALUE cannot be read is warned about and left out."""
        wanted, wrong = read_low_value(settings.items("LOW_VALUE"))
        for problem in wrong:
            logger.warning("LOW_VALUE: %s; it is left out", problem)
        return cls(settings.size("DISK_BUDGET"), settings.size("BALLAST"), tuple(wanted))


class BudgetWatch:
    """Looks at the SQLite file *path* every few seconds.

    *refuse* is called with the reason for which writes are refused from now on; empty: they
    are taken again. *size_limit* keeps what is written before the next look within the budget.
    """

    def __init__(
        self,
        path: Path,
        paths: "Paths",
        limits: Limits,
        *,
        state: "StateBoard",
        refuse: Callable[[str], None],
        size_limit: SizeLimit | None = None,
    ) -> None:
        self._size_limit = size_limit or SizeLimit(path)
        self._path = path
        self._ballast = paths.ballast
        self._lock = paths.database_lock
        self._limits = limits
        self._state = state
        self._refuse = refuse
        self._level: budget.Level = "ok"
        self._disk_full = False
        self._trouble = ""
        self.task = PeriodicTask(
            "disk-budget",
            self._turn,
            every=LOOK_EVERY,
            late_after=LATE_AFTER,
            alert=TaskAlert("DISK_BUDGET is not kept meanwhile: 'df -h' shows what is free."),
        )

    def disk_full(self) -> None:
        """Have a look now: a write found no room on the disk."""
        self._disk_full = True
        self.task.wake()

    def _turn(self) -> None:
        self.look()

    def look(self) -> budget.Level:
        """Measure, make room where there is need of it, alert and refuse as that demands."""
        if self._disk_full:
            if ballast.release(self._ballast):
                logger.warning("the disk is full: the ballast of %s is given up", self._ballast)
            self._disk_full = False
        else:
            ballast.reserve(self._ballast, self._limits.ballast, spare=_SPARE)
        try:
            size = budget.budget_of(self._path, self._limits.budget)
            with (
                held(self._lock, shared=True, timeout=0.0),
                closing(open_sqlite(self._path, busy_timeout=_BUSY_TIMEOUT)) as connection,
            ):
                found = self._make_room(connection, size)
                self._limit_size(connection, found)
        except LockHeld:
            return self._level  # another process replaces the file, and this service ends
        except (OSError, sqlite3.Error, DatabaseError) as error:
            # Damage of the file is handled where the file is used; here only measuring fails.
            if str(error) != self._trouble:
                logger.warning("the disk budget cannot be measured: %s", error)
            self._trouble = str(error)
            return self._level
        self._trouble = ""
        self._apply_level(found)
        return self._level

    def _limit_size(self, connection: sqlite3.Connection, found: budget.Usage) -> None:
        """Have no transaction bring the file beyond the budget before the next look."""
        if wal_excess(wal_of(self._path)):  # cut back at its next reset, which needs a write
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        # Not the difference to what was found: writes go on, and the file has grown since.
        journal = usage_of_journal(self._path)
        self._size_limit.set(
            max(1, found.budget - journal),
            crowded_from=int(found.budget * budget.LEVEL_STARTS["full"]) - journal,
            used=budget.usage(connection, found.budget).used,
        )

    def _make_room(self, connection: sqlite3.Connection, size: int) -> budget.Usage:
        """Return what is used after delivered rows went, and low-value ones where it must be."""
        found = usage_of_both(connection, self._path, size)
        for _ in range(_STEPS):
            # What PostgreSQL has goes before what it is still to get.
            over = found.beyond(budget.TARGET_SHARE)
            if budget.level(found.share) == "ok" or not self._shrink_journal(over):
                break
            found = usage_of_both(connection, self._path, size)
        if budget.level(found.share) == "ok" or versions.problem(connection):
            return found  # a newer release's outbox is left as it is, and full in the end
        for leave in (fact_copies.reclaim, _reclaimed_rows):
            for _ in range(_STEPS):
                if not found.beyond(budget.TARGET_SHARE):
                    break
                if not _allowed(partial(leave, connection, older_than=0.0)):
                    break
                found = usage_of_both(connection, self._path, size)
        given_up = 0
        for _ in range(_STEPS):
            if not found.beyond(budget.LEVEL_STARTS["shed"] - budget.HYSTERESIS):
                break
            rows = _allowed(lambda: shed(connection, self._limits.low_value))
            if not rows:
                break
            given_up += rows
            found = usage_of_both(connection, self._path, size)
        if given_up:
            self._alert_shedding(given_up, found)
        vacuum.release(connection)
        return found

    def _shrink_journal(self, over: int) -> int:
        try:
            return shrink(self._path, over, busy_timeout=_BUSY_TIMEOUT) if over else 0
        except JournalUnreadable as error:
            # Also one that is being set aside. What is in the SQLite file has to make the room.
            logger.warning("the journal cannot make room: %s", error)
            return 0

    def _alert_shedding(self, rows: int, found: budget.Usage) -> None:
        ROWS_SHED.raise_alert(
            f"{rows:,} waiting rows of LOW_VALUE were given up to make room: {found.text} of the "
            f"disk budget are used; the gap is reported to PostgreSQL"
        )

    def _apply_level(self, found: budget.Usage) -> None:
        before, self._level = self._level, budget.level(found.share, self._level)
        if self._level == before:
            return
        if self._level == "full":
            reason = f"{found.text} of the disk budget are used: writes are refused with 507"
            self._refuse(reason)
            self._state.note(_KEY, reason, state="full")
        elif before == "full":
            self._refuse("")
            self._state.withdraw(_KEY)
        if self._level == "ok":
            DISK_BUDGET.resolve_alert(f"{found.text} of the disk budget are used")
            ROWS_SHED.resolve_alert("no row is given up any more")
            return
        DISK_BUDGET.raise_alert(
            f"{found.text} of the disk budget are used by {self._path}: "
            f"{_CONSEQUENCE[self._level]}",
            severity="critical" if self._level == "full" else "warning",
        )


def _reclaimed_rows(connection: sqlite3.Connection, *, older_than: float) -> int:
    return reclaim(connection, older_than=older_than).rows


def _allowed(step: Callable[[], int]) -> int:
    """Return how many rows *step* removed, 0 where the application's own tables forbid it.

    E.g. a trigger that lets no fact be deleted. The budget holds all the same.
    """
    try:
        return step()
    except sqlite3.IntegrityError as error:
        logger.warning("rows that could make room cannot leave: %s", error)
        return 0


_CONSEQUENCE: dict[budget.Level, str] = {
    "alert": "from 85 % on LOW_VALUE rows are given up, from 95 % on writes are refused",
    "shed": "LOW_VALUE rows are given up, from 95 % on writes are refused",
    "full": "writes are refused with 507 until there is room",
}
