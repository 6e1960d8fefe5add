# SPDX-License-Identifier: Apache-2.0
"""What is used of the insides of SQLAlchemy's pool, in one place; no other module knows them.

SQLAlchemy documents how a pool is configured, not how another one is written. A pool of our
own has to decide how a connection is taken and given back, so this class turns the following
insides of ``sqlalchemy.pool.QueuePool`` into methods with names of their own, and
``tests/unit/test_adapter_pool.py`` fails when a new version changes them. The upper bound in
``pyproject.toml`` is the first version that was not tested.

- ``_do_get()``: the hook by which the pool takes a record; calls :meth:`AdaptedPool.take`.
- ``_do_return_conn(record)``: the hook by which it gets one back; calls
  :meth:`AdaptedPool.give_back`.
- ``_pool``: the queue of idle records, with ``get(block, timeout)``, which raises
  ``sqlalchemy.util.queue.Empty``.
- ``_dec_overflow()``: the number of places that are taken is one less.
- ``_timeout``: the seconds of ``pool_timeout``.
- ``ConnectionPoolEntry.get_connection()``: opens the record's connection if there is none,
  and replaces it if it is older than ``pool_recycle``.
- ``_sqla_logger_namespace``: under which name a pool logs.
"""

import contextlib
from typing import Any

from sqlalchemy.pool import ConnectionPoolEntry, QueuePool
from sqlalchemy.util import queue


class AdaptedPool(QueuePool):
    """A QueuePool whose decisions are :meth:`take` and :meth:`give_back`."""

    #: What it logs goes where the library's own pools log, and is as quiet (edgepaas.logs).
    _sqla_logger_namespace = "sqlalchemy.pool.AdaptedPool"

    def take(self) -> ConnectionPoolEntry:
        """Return a record with an open connection; raises what opening one raises."""
        return self.take_or_make()

    def give_back(self, record: ConnectionPoolEntry) -> None:
        """Take *record* back; its connection is None where it was lost."""
        self.keep(record)

    @property
    def patience(self) -> float:
        """Seconds that :meth:`take_or_make` waits for a place."""
        return float(self._timeout)

    def take_or_make(self) -> ConnectionPoolEntry:
        """Return an idle record, or a new one while there are places.

        Raises sqlalchemy.exc.TimeoutError where all are in use for ``patience`` seconds.
        """
        return super()._do_get()

    def take_idle(self, timeout: float) -> ConnectionPoolEntry | None:
        """Return a record that is idle, or becomes so within *timeout* seconds, else None."""
        with contextlib.suppress(queue.Empty):
            return self._pool.get(timeout > 0, timeout)
        return None

    def keep(self, record: ConnectionPoolEntry) -> None:
        """Put *record* among the idle ones; it is closed where those are as many as may be."""
        super()._do_return_conn(record)

    def free_place(self) -> None:
        """Let another record be made for one that is not coming back."""
        self._dec_overflow()

    def open_connection(self, record: ConnectionPoolEntry) -> Any:
        """Return the record's connection, opened anew where there is none or it is too old."""
        return record.get_connection()  # type: ignore[attr-defined]

    def _do_get(self) -> ConnectionPoolEntry:
        return self.take()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        self.give_back(record)
