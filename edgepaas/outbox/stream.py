# SPDX-License-Identifier: Apache-2.0
"""The stream: under which name and up to which number this file's changes went to the hub."""

import json
import logging
import sqlite3
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from edgepaas.database.reserved_names import BATCHES, OUTBOX, STATE, TRANSACTIONS
from edgepaas.database.sqlite.transaction_stamp import LAST_SEQ
from edgepaas.outbox import ledger, sequence_gaps, tables
from edgepaas.outbox.resending import counters, switches

logger = logging.getLogger("edgepaas.outbox")

#: Batches that were confirmed within a minute share an entry, up to so many rows: else a
#: box that drains after each write would keep a million entries until RETENTION is over.
_ENTRY_SECONDS = 60
_ENTRY_ROWS = 10_000

_COLUMNS = (
    "node_id, stream_id, forked_from, base_seq, confirmed_seq, confirmed_batch, "
    "inflight_batch, inflight_seq"
)


@dataclass(frozen=True)
class Stream:
    """What the file knows of its stream; sequence numbers, and batch ids (empty: none).

    Rows above ``confirmed_seq`` wait; ``last_seq`` is the greatest number ever given out,
    ``base_seq`` the greatest of the stream before this one (``forked_from``, or empty).
    """

    node_id: str
    stream_id: str
    forked_from: str
    base_seq: int
    confirmed_seq: int
    confirmed_batch: str
    inflight_batch: str
    inflight_seq: int
    last_seq: int


@dataclass(frozen=True)
class Counts:
    """What became of a batch's rows; ``conflicts`` are among the delivered ones."""

    delivered: int
    dead: int = 0
    conflicts: int = 0


def read_stream(connection: sqlite3.Connection) -> Stream | None:
    """Return the file's stream; None without an outbox."""
    if not tables.exist(connection):
        return None
    row = connection.execute(
        f"SELECT {_COLUMNS}, {LAST_SEQ} FROM {STATE}"  # noqa: S608
    ).fetchone()
    return None if row is None else Stream(*row)


def set_inflight(connection: sqlite3.Connection, batch: str, last_seq: int) -> None:
    """Remember, durably, that *batch* up to *last_seq* is about to be sent."""
    with tables.transaction(connection):
        connection.execute(
            f"UPDATE {STATE} SET inflight_batch = ?, inflight_seq = ?",  # noqa: S608
            (batch, last_seq),
        )


def confirm(connection: sqlite3.Connection, batch: str, last_seq: int, counts: Counts) -> None:
    """Remember, in one transaction, that the hub has committed *batch* up to *last_seq*.

    Said twice of the same batch, or late, when more is confirmed already, it counts once.
    """
    with tables.transaction(connection):
        (confirmed,) = connection.execute(f"SELECT confirmed_seq FROM {STATE}").fetchone()  # noqa: S608
        if last_seq <= confirmed:
            return
        connection.execute(
            f"UPDATE {STATE} SET confirmed_seq = ?, confirmed_batch = ?, "  # noqa: S608
            "inflight_batch = '', inflight_seq = 0",
            (last_seq, batch),
        )
        for name in ("delivered", "dead", "conflicts"):
            ledger.add(connection, name, getattr(counts, name))
        _keep_batch(connection, batch, last_seq, counts)


def fork(connection: sqlite3.Connection, why: str, *, node_id: str | None = None) -> Stream:
    """Begin a new stream, since the hub knows this one otherwise; return it.

    What waits gets new numbers above the greatest, in order, and counts as resent: it is
    applied only where it meets what it expects. *node_id*: the box's, where that changed.
    One transaction, of its own unless one is open.
    """
    with tables.transaction(connection):
        before = read_stream(connection)
        if before is None:
            raise RuntimeError("a file without an outbox has no stream to fork")
        shift = before.last_seq - before.confirmed_seq
        if shift:
            _renumber(connection, before.confirmed_seq, before.last_seq, shift)
            sequence_gaps.record_renumbering(connection, before.confirmed_seq, before.last_seq)
        ledger.add(connection, "renumbered", shift)
        ledger.add(connection, "forks", 1)
        connection.execute(
            f"UPDATE {STATE} SET node_id = ?, stream_id = ?, forked_from = ?, base_seq = ?, "  # noqa: S608
            "confirmed_seq = ?, confirmed_batch = '', inflight_batch = '', inflight_seq = 0",
            (
                node_id or before.node_id,
                str(uuid.uuid4()),
                before.stream_id,
                before.last_seq,
                before.last_seq,
            ),
        )
        after = read_stream(connection)
    if after is None:
        raise RuntimeError("the outbox vanished while its stream was forked")
    logger.warning(
        "stream %s goes on as %s, with %d numbers given anew: %s",
        before.stream_id,
        after.stream_id,
        shift,
        why,
    )
    return after


def rewind(connection: sqlite3.Connection, hub_seq: int, hub_batch: str = "") -> int:
    """Go back to *hub_seq* and *hub_batch*, the last that a hub restored from a backup has.

    What is still here is sent again, as resent. Returns how many rows retention took in
    the meantime: they are lost to the hub, and counted as ``hub_lost``, each once. Behind
    ``base_seq`` the stream goes for a hub that knows none of those before it: it begins
    there then, and takes their rows along under their own numbers.
    """
    with tables.transaction(connection):
        confirmed, reclaimed = connection.execute(
            f"SELECT confirmed_seq, reclaimed_seq FROM {STATE}"  # noqa: S608
        ).fetchone()
        if hub_seq >= confirmed:
            return 0
        here = connection.execute(
            f"SELECT count(*) FROM {OUTBOX} WHERE seq > ? AND seq <= ?",  # noqa: S608
            (hub_seq, confirmed),
        ).fetchone()[0]
        gone = sequence_gaps.record_lost(connection, hub_seq + 1, min(reclaimed, confirmed))
        dead, conflicts = connection.execute(
            f"SELECT coalesce(sum(dead), 0), coalesce(sum(conflicts), 0) FROM {BATCHES} "  # noqa: S608
            "WHERE last_seq > ?",
            (hub_seq,),
        ).fetchone()
        counters.trust(connection, hub_seq, confirmed)
        connection.execute(
            f"UPDATE {OUTBOX} SET resent = 1 WHERE seq > ? AND seq <= ? AND NOT resent",  # noqa: S608
            (hub_seq, confirmed),
        )
        counters.doubt_lost_rows(connection, hub_seq)
        connection.execute(f"DELETE FROM {BATCHES} WHERE last_seq > ?", (hub_seq,))  # noqa: S608
        connection.execute(
            f"UPDATE {STATE} SET confirmed_seq = ?1, confirmed_batch = ?2, "  # noqa: S608
            "base_seq = min(base_seq, ?1), inflight_batch = '', inflight_seq = 0",
            (hub_seq, hub_batch),
        )
        ledger.add(connection, "delivered", dead - here)
        ledger.add(connection, "dead", -dead)
        ledger.add(connection, "conflicts", -conflicts)
        ledger.add(connection, "hub_lost", gone)
    return gone


def _renumber(connection: sqlite3.Connection, above: int, last: int, shift: int) -> None:
    connection.execute(
        f"UPDATE {OUTBOX} SET seq = seq + ?, resent = 1 WHERE seq > ?",  # noqa: S608
        (shift, above),
    )
    connection.execute(
        f"UPDATE {TRANSACTIONS} SET first = first + ?, last = last + ? WHERE first > ?",  # noqa: S608
        (shift, shift, above),
    )
    connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (last + shift, OUTBOX))
    switches.shift(connection, above, shift)
    gaps = connection.execute(
        f"SELECT seq, v0 FROM {OUTBOX} WHERE op = 'G' AND seq > ?",  # noqa: S608
        (last,),
    ).fetchall()
    for seq, text in gaps:
        gap = json.loads(text)
        gap["ranges"] = [[a + shift, b + shift] if a > above else [a, b] for a, b in gap["ranges"]]
        connection.execute(f"UPDATE {OUTBOX} SET v0 = ? WHERE seq = ?", (json.dumps(gap), seq))  # noqa: S608


def _keep_batch(connection: sqlite3.Connection, batch: str, last_seq: int, counts: Counts) -> None:
    """Note when the batch's rows were delivered, for retention and for a rewind.

    A batch with dead rows has an entry of its own: a rewind takes them back exactly.
    """
    now = datetime.now(UTC)
    rows = counts.delivered + counts.dead
    if not (counts.dead or counts.conflicts):
        since = (now - timedelta(seconds=_ENTRY_SECONDS)).isoformat(timespec="seconds")
        cursor = connection.execute(
            f"UPDATE {BATCHES} SET batch = ?, last_seq = ?, rows = rows + ? "  # noqa: S608
            f"WHERE last_seq = (SELECT max(last_seq) FROM {BATCHES}) "
            "AND dead = 0 AND conflicts = 0 AND rows + ? <= ? AND confirmed_at >= ?",
            (batch, last_seq, rows, rows, _ENTRY_ROWS, since),
        )
        if cursor.rowcount:
            return
    # Never before the batch before it: a box without a clock battery boots in 1970, and what
    # it delivers then would seem to have been delivered long ago once its clock is set.
    connection.execute(
        f"INSERT INTO {BATCHES} (batch, last_seq, rows, dead, conflicts, confirmed_at) "  # noqa: S608
        f"VALUES (?, ?, ?, ?, ?, max(?, coalesce((SELECT max(confirmed_at) FROM {BATCHES}), '')))",
        (batch, last_seq, rows, counts.dead, counts.conflicts, now.isoformat(timespec="seconds")),
    )
