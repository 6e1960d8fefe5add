# SPDX-License-Identifier: Apache-2.0
"""The full integrity check of a file in use, where the boot had no time for it."""

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.files.sqlite_file import check_is_due, forget_due_check, note_damage

logger = logging.getLogger("edgepaas.database")

#: Seconds after the start before it begins: the service is to answer first.
DELAY = 5.0
_INSTRUCTIONS = 10_000
_LEAST_URGENT = 19
#: Seconds to wait for a step of the check to notice that it is to stop.
_STOP_TIMEOUT = 5.0


class IntegrityCheck:
    """``integrity_check`` of *path* in a thread of its own, if one is due.

    Damage is noted for the schema stage, and *found* is called with what it is. Stopped
    before its end, it stays due.
    """

    def __init__(
        self, path: Path, found: Callable[[sqlite3.DatabaseError], None], *, delay: float = DELAY
    ) -> None:
        self._path = path
        self._found = found
        self._delay = delay
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, after a while, where a check is due; the caller holds the file's lock."""
        if check_is_due(self._path):
            self._thread = threading.Thread(target=self._run, name="integrity-check", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop it; call this before the file's lock is released."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_STOP_TIMEOUT)

    def _run(self) -> None:
        if self._stop.wait(self._delay):
            return
        with contextlib.suppress(OSError):
            # Linux takes a thread's id: only this thread gets the low priority.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LEAST_URGENT)
        logger.info("%s is checked in full, since the box stopped uncleanly", self._path)
        try:
            problem = self._check()
        except sqlite3.DatabaseError as error:
            if self._stop.is_set() or isinstance(error, sqlite3.OperationalError):
                logger.info("the check of %s was not finished: %s", self._path, error)
                return
            problem = error
        if problem is None:
            logger.info("%s is undamaged", self._path)
            forget_due_check(self._path)
            return
        logger.error("%s is damaged: %s", self._path, problem)
        note_damage(self._path, problem)
        self._found(problem)

    def _check(self) -> sqlite3.DatabaseError | None:
        with contextlib.closing(open_sqlite(self._path, read_only=True)) as connection:
            connection.set_progress_handler(self._stop.is_set, _INSTRUCTIONS)
            answer = str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
        return None if answer == "ok" else sqlite3.DatabaseError(answer)
