# SPDX-License-Identifier: Apache-2.0
"""How long a COMMIT may wait, for a synchronous standby most of all.

PostgreSQL bounds it by nothing: ``statement_timeout`` is over before it begins, and where
``synchronous_standby_names`` names a standby that is away, COMMIT waits for ever. So the box
cancels it. PostgreSQL then answers COMMIT all the same, with a warning: the transaction is
durable on the primary alone. That is not what was asked for, and no acknowledgement.
A COMMIT that waits for its own disk cannot be cancelled and is answered when it is done.

(PostgreSQL manual, 27.2.8 "Synchronous Replication"; 55.2.8 "Canceling Requests in Progress".)
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from edgepaas.pgdriver.failures import CommitUnconfirmed, is_lost

#: Seconds between two looks at what waits.
LOOK_EVERY = 0.25
#: Seconds for which the thread stays when nothing waits.
_IDLE = 60.0
#: Seconds to connect, and to see the request taken.
_CANCEL_TIMEOUT = 1.0
#: The function of PostgreSQL that waits for standbys; warnings name the one they come from.
_WAITS_FOR_STANDBY = "SyncRepWaitForLSN"

logger = logging.getLogger("edgepaas.database")

#: Asks the server of a connection to cancel what it does; raises OSError.
Cancel = Callable[[Any], None]


@dataclass
class _Wait:
    """One COMMIT under way; moments by the clock."""

    connection: Any
    cancel_at: float
    cut_at: float
    cancelled: bool = False
    cut: bool = False
    over: bool = False
    #: Held while the COMMIT is cancelled or cut, so that it does not end meanwhile: the
    #: connection's next statement would be cancelled in its place.
    lock: threading.Lock = field(default_factory=threading.Lock)


def cancel(connection: Any) -> None:
    """Ask the server to cancel what it does for *connection*; raises OSError.

    The request goes over a connection of its own, unencrypted as PostgreSQL wants it; the
    key in it is good for cancelling alone.
    """
    request = connection.cancel_request()
    link = connection.link
    with socket.socket(link.family, socket.SOCK_STREAM) as sock:
        sock.settimeout(_CANCEL_TIMEOUT)
        sock.connect(link.getpeername())
        sock.sendall(request)
        sock.recv(1)  # the server closes it once it has signalled its process


class CommitWatch:
    """Ends COMMITs that wait for longer than *limit* seconds; one thread for all connections.

    A cancelled one that is not answered within *limit* seconds more is cut off.
    """

    def __init__(
        self,
        limit: float,
        *,
        cancel: Cancel = cancel,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._cancel = cancel
        self._clock = clock
        self._waits: dict[int, _Wait] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watching(self, connection: Any, *, before: float = 0.0) -> Iterator[None]:
        """Bound the COMMIT that the block sends on *connection* and waits for.

        *before*: seconds for what else travels and is done in the same flight. Raises
        CommitUnconfirmed where COMMIT was answered and a standby has not confirmed it, and where
        the box cut it off.
        """
        cancel_at = self._clock() + before + self._limit
        wait = _Wait(connection, cancel_at, cancel_at + self._limit)
        connection.take_notices()
        self._waits[id(wait)] = wait
        try:
            self._ensure_thread()
            yield
        except Exception as error:
            if wait.cut and is_lost(error):
                raise self._unconfirmed() from error
            raise
        finally:
            del self._waits[id(wait)]
            with wait.lock:
                wait.over = True
        if any(_WAITS_FOR_STANDBY in fields.values() for fields in connection.take_notices()):
            raise self._unconfirmed()

    def enforce(self) -> None:
        """Cancel, or cut, what has waited for too long."""
        now = self._clock()
        # What is cut at once first: a server that is gone takes no request to cancel either.
        for wait in sorted(self._waits.copy().values(), key=lambda one: one.cut_at):
            self._enforce(wait, now)

    def _enforce(self, wait: _Wait, now: float) -> None:
        with wait.lock:
            if wait.over:
                return
            if now >= wait.cut_at and not wait.cut:
                wait.cut = True
                with contextlib.suppress(OSError):  # it was not connected any more
                    wait.connection.link.shutdown(socket.SHUT_RDWR)
            elif now >= wait.cancel_at and not wait.cancelled:
                wait.cancelled = True
                try:
                    self._cancel(wait.connection)
                except OSError as error:
                    logger.warning("a COMMIT that waits cannot be cancelled: %s", error)

    def _unconfirmed(self) -> CommitUnconfirmed:
        return CommitUnconfirmed(
            f"COMMIT was not confirmed within {self._limit:g} s: a synchronous standby does not "
            "answer (synchronous_standby_names)"
        )

    def _ensure_thread(self) -> None:
        with self._lock:  # else one that is about to end would be relied upon
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="commit-watch", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        idle_since = self._clock()
        while True:
            time.sleep(LOOK_EVERY)
            if self._waits:
                idle_since = self._clock()
                self.enforce()
            elif self._clock() - idle_since > _IDLE:
                with self._lock:
                    if not self._waits:
                        self._thread = None
                        return
