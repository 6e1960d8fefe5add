# SPDX-License-Identifier: Apache-2.0
"""Forwarding: delivering the rows captured in SQLite to PostgreSQL, which is called the hub.

It runs as a process of its own beside the service (``edgepaas sync``, called the drainer).
The modules of this room keep it going; what it does is in the sub-rooms:

- ``delivery`` sends the captured rows, each exactly once and in order.
- ``mirror`` keeps the hub's shared tables current in the SQLite file for the next outage.
- ``hub`` is the connection to PostgreSQL: its tables, its schema, the heartbeat of this box.
- ``turns`` is what is done beside sending rows, each when it is due.
- ``takeover`` rehearses the return to PostgreSQL before it is decided.
- ``audit`` compares the counters of both sides (``edgepaas audit``).

In this room: ``worker`` is the main loop, ``context`` what it is given, ``wakeups`` and
``shutdown`` what starts and ends its sleep, ``failures`` what an error means and when the next
attempt is, ``handback`` the return from SQLite to PostgreSQL, ``reclaim`` deletes what was
delivered long ago, ``report`` and ``status`` publish ``run/sync.json``, ``once`` is
``edgepaas sync --once``, ``inspect`` lists dead letters and conflicts.

The path of one row:

1. A trigger copies the change into the ``outbox`` table, in the transaction that makes it
   (``edgepaas/outbox/triggers.py``). After the commit the service sends a datagram
   (``edgepaas/database/sqlite/sync_wakeup.py``).
2. ``wakeups.WakeupSocket`` wakes ``worker.SyncWorker``, which calls
   ``delivery.drain.drain_batch``.
3. ``delivery/marks.py`` locks the stream's row on the hub, ``delivery/reconcile.py`` compares
   it with the file, ``edgepaas/outbox/reading.py`` reads the next batch. The batch's id is
   stored in the file as in flight before anything is sent.
4. ``delivery/runs.py`` groups the changes, ``delivery/planner.py`` chooses the statements for
   each group (``delivery/statements.py``, for the columns of ``delivery/column_mapping.py``),
   ``delivery/sending.py`` binds the values (``delivery/values.py``).
5. ``delivery/apply.py`` sends them without waiting for each answer. Where a row is refused,
   the transaction is rolled back and ``delivery/bisect.py`` applies the batch again, halving
   it down to the row; ``delivery/dead_letters.py`` keeps that row on the hub.
6. COMMIT carries the new mark. The file then confirms the batch
   (``edgepaas/outbox/stream.py``).
"""
