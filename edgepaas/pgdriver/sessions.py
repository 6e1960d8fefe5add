# SPDX-License-Identifier: Apache-2.0
"""This box's sessions at PostgreSQL: which they are, and the end of those that it left behind.

A link that is cut leaves the session standing at the server, which does not notice before its
keepalive does: with its locks, and in one of the places of ``max_connections``. So each
process names its sessions ``edgepaas/BOX/PROCESS/TAG``, keeps a lock on ``state/sessions/TAG``
for as long as it lives, and a new connection ends

- the sessions of this box's processes that have ended (their lock is free), and
- those sessions of this process whose connection it has closed or lost.

It touches no other box's, and none of a process that lives, such as a service that still
answers its last requests. Behind a pooler nothing is ended: the sessions there are the
pooler's, which serve others as well.
"""

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgepaas.files.locks import LockHeld, acquire, is_locked
from edgepaas.pgdriver import pg8000_adapter
from edgepaas.pgdriver.failures import ConnectFailure, Failure, is_lost, server_message

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths

logger = logging.getLogger("edgepaas.pgdriver")

#: What PostgreSQL keeps of an application_name, in bytes (NAMEDATALEN - 1).
_LONGEST_NAME = 63
#: Seconds after which a session of this process that it does not know is none that is being
#: opened: more than the longest DB_CONNECT_TIMEOUT.
_OPENING_AT_MOST = 120.0


class OwnSessions:
    """The sessions of this process, and what it knows of this box's earlier ones."""

    def __init__(self, folder: Path, box: str, process: str) -> None:
        """*box* and *process* become a part of the name; raises OSError, LockHeld.

        The lock in *folder* is held until this process ends.
        """
        self._folder = folder
        self._box = box
        self.tag = os.urandom(4).hex()
        self._suffix = f"/{box}/{process}/{self.tag}"
        self._descriptor = acquire(folder / self.tag, timeout=5.0)
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        #: Backend process id → the exchange with it, None once it was collected. Not the
        #: connection object: an idle one that was cut goes on with another one's exchange.
        self._known: dict[int, weakref.ref[Any]] = {}
        #: When an attempt failed last that may have left a session that nobody knows.
        self._failed_at: float | None = None

    def name(self, prefix: str) -> str:
        """Return the application_name of this process's sessions; *prefix* says whose they are."""
        kept = prefix.encode("ascii", "replace")[: _LONGEST_NAME - len(self._suffix)]
        return kept.decode("ascii") + self._suffix

    @contextlib.contextmanager
    def turn(self, seconds: float) -> Iterator[None]:
        """Open a connection in the block: one at a time while there is something to be ended.

        Else the four that replace four lost ones would all be opened beside those. Waits for
        at most *seconds*.
        """
        if not self._is_any_left():
            yield
            return
        mine = self._turn.acquire(timeout=seconds)
        try:
            yield
        finally:
            if mine:
                self._turn.release()

    def failed(self, failure: ConnectFailure) -> None:
        """Note an attempt that failed: its session may stand at the server all the same."""
        if failure.kind in (Failure.SILENT, Failure.OTHER):
            self._failed_at = time.monotonic()

    def release(self) -> None:
        """Forget the tag, for a process that ends in order: it leaves no session behind."""
        with self._lock:
            left = any(not _is_closed(found) for found in self._known.values())
        if not left and self._failed_at is None:
            with contextlib.suppress(OSError):
                (self._folder / self.tag).unlink()

    def opened(self, connection: Any) -> None:
        """Take note of *connection*, and end what is left behind, in one further round trip.

        Raises what a lost connection raises. That PostgreSQL refuses to end a session is logged.
        """
        own_pid: int = connection.backend_pid
        with self._lock:
            closed = {pid for pid, found in self._known.items() if _is_closed(found)}
            self._known[own_pid] = weakref.ref(connection.exchange)
            closed.discard(own_pid)
            open_ones = set(self._known) - closed
        dead = self._dead_tags()
        failed_at = self._failed_at
        if not (closed or dead or failed_at is not None):
            return
        which = []
        if closed:
            which.append(f"pid IN ({_listed(closed)}) AND {self._is_mine}")
        if failed_at is not None:
            which.append(
                f"{self._is_mine} AND pid NOT IN ({_listed(open_ones)}) AND "
                f"backend_start < clock_timestamp() - interval '{_OPENING_AT_MOST:g} s'"
            )
        if dead:
            which.append(f"application_name ~ '/{self._box}/[a-z]+/({'|'.join(dead)})$'")
        ended = self._end(connection, own_pid, " OR ".join(f"({one})" for one in which))
        if ended is None:
            return
        if ended:
            logger.info("ended %d sessions at PostgreSQL that this box had left behind", ended)
        elif dead:
            # Looked for in vain: there are none any more.
            for tag in dead:
                with contextlib.suppress(OSError):
                    (self._folder / tag).unlink()
        with self._lock:
            for pid in closed:
                if _is_closed(self._known.get(pid)):
                    self._known.pop(pid, None)
        if failed_at is not None and time.monotonic() - failed_at > _OPENING_AT_MOST:
            self._failed_at = None

    def close(self) -> None:
        """Let go of the lock, as the end of the process does."""
        os.close(self._descriptor)

    @property
    def _is_mine(self) -> str:
        return f"application_name LIKE '%{self._suffix}'"

    def _end(self, connection: Any, own_pid: int, which: str) -> int | None:
        """End the sessions of *which*, a condition; returns how many, None where it may not."""
        # Through a pooler the backend is another one than the login named.
        question = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "  # noqa: S608
            f"WHERE usename = current_user AND pid <> pg_backend_pid() "
            f"AND pg_backend_pid() = {own_pid} AND ({which})"
        )
        try:
            return int(pg8000_adapter.simple_query(connection, question)[0][0])
        except Exception as error:
            if is_lost(error):
                raise
            logger.warning(
                "sessions that this box left behind at PostgreSQL are not ended: %s",
                server_message(error),
            )
            return None

    def _is_any_left(self) -> bool:
        with self._lock:
            lost = any(_is_closed(found) for found in self._known.values())
        return lost or bool(self._dead_tags())

    def _dead_tags(self) -> list[str]:
        """Return the tags of this box's processes that have ended."""
        try:
            others = [path for path in self._folder.iterdir() if path.name != self.tag]
        except OSError:
            return []
        return sorted(path.name for path in others if path.name.isalnum() and not is_locked(path))


#: This process's own, once it is identified. One for each process, as its name and its lock are.
_own: OwnSessions | None = None


def identify(paths: "Paths", process: str) -> None:
    """Have this process name its sessions; *process* is a word such as ``serve``.

    Without it, and where the state folder takes no file, sessions have a general name, and
    nothing is ended. Never raises.
    """
    global _own  # noqa: PLW0603 - a process has one identity
    from edgepaas.files.node_identity import node_identity

    try:
        box = node_identity(paths).node_id.replace("-", "")[-12:]
        _own = OwnSessions(paths.state / "sessions", box, process)
    except (OSError, LockHeld) as error:
        logger.warning("sessions at PostgreSQL are not told apart by process: %s", error)


@contextlib.contextmanager
def identified(paths: "Paths", process: str) -> Iterator[None]:
    """Identify a short process for the block, which ends in order unless it raises."""
    identify(paths, process)
    yield
    if _own is not None:
        _own.release()


def own_sessions() -> OwnSessions | None:
    """Return what :func:`identify` made."""
    return _own


def forget_identity() -> None:
    """Let go of the identity; for tests, whose process is many."""
    global _own  # noqa: PLW0603
    if _own is not None:
        _own.close()
    _own = None


def _is_closed(found: "weakref.ref[Any] | None") -> bool:
    exchange = None if found is None else found()
    return exchange is None or bool(exchange.lost)


def _listed(pids: set[int]) -> str:
    return ", ".join(map(str, sorted(pids)))
