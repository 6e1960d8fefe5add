# SPDX-License-Identifier: Apache-2.0
"""One pass of the audit that runs by itself: a chunk at a time, beside all other work.

A pass compares the latest rows of each table of facts, goes on among the older ones where the
pass before ended, and looks again at what was open. What is missing on the hub and still here
is queued again, once; whatever else does not add up is left open, and an operator is notified.
"""

import logging
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgepaas.outbox import ledger, tables
from edgepaas.outbox.layout import Layout, registered
from edgepaas.outbox.reading import key_text
from edgepaas.outbox.requeue import QueuedChange, queue_again
from edgepaas.outbox.resending import fact_copies, resent
from edgepaas.outbox.stream import read_stream
from edgepaas.sync.audit.box import read_box
from edgepaas.sync.audit.content import Difference, HubContent, revisions_of
from edgepaas.sync.audit.counters import compare_streams
from edgepaas.sync.audit.hub import HubReader
from edgepaas.sync.audit.journal_rows import JournalRows
from edgepaas.sync.audit.own_rows import Chunk, OwnRows, fact_layouts
from edgepaas.sync.audit.record import MOST_OPEN, AuditRecord
from edgepaas.sync.audit.tally import Tally, judge
from edgepaas.sync.errors import HubError, HubUnreachable
from edgepaas.sync.hub.connection import Hub

logger = logging.getLogger("edgepaas.sync")

#: Counters of the ledger that tell whether something happened since the last pass.
WATCHED = ("delivered", "dead", "hub_lost", "forks")


class ScheduledPass:
    """One pass over the file of *connection*; :meth:`step` until it returns False."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        models: Mapping[str, Any],
        before: AuditRecord | None,
        acknowledged: Mapping[str, frozenset[str]],
        *,
        rows: int,
        why: str,
        journal: Path,
    ) -> None:
        """*rows*: how many of each table are compared; *before*: what the last pass left.

        *journal*: of what was written while PostgreSQL served.
        """
        self.tally = Tally()
        self.why = why
        self._connection = connection
        self._models = models
        self._before = before or AuditRecord()
        self._acknowledged = acknowledged
        self._rows = rows
        self._own = OwnRows(connection, JournalRows(journal))
        self._cursors = dict(self._before.cursors)
        self._open: dict[tuple[str, str], dict[str, Any]] = {}
        self._beyond = self._before.beyond
        self._hub: HubContent | None = None
        self._sent_over: Hub | None = None
        self._steps = self._run()

    def step(self, hub: Hub) -> bool:
        """Compare one chunk over *hub*; whether there is more to do.

        Raises HubUnreachable, sqlite3.Error.
        """
        if hub is not self._sent_over:
            hub.forget_tables()
            self._sent_over = hub
            self._hub = HubContent(hub, self._models, revisions_of(self._connection))
        return next(self._steps, None) is not None

    def close(self) -> None:
        """Drop what it keeps in the connection."""
        self._own.close()

    def result(self, at: str) -> AuditRecord:
        """Return what is to be kept of the pass, which ended *at* (RFC 3339)."""
        stream = read_stream(self._connection)
        counters = ledger.read(self._connection)
        listed = list(self._open.values())
        return AuditRecord(
            at=at,
            why=self.why,
            stream_id="" if stream is None else stream.stream_id,
            counters={name: counters[name] for name in WATCHED},
            counts=self.tally.counts(),
            queued_again=self._before.queued_again + self.tally.queued_again,
            open=listed[:MOST_OPEN],
            beyond=self._beyond + max(0, len(listed) - MOST_OPEN),
            problems=self.tally.problems,
            cursors=self._cursors,
        )

    def _run(self) -> Iterator[bool]:
        layouts = fact_layouts(self._connection)
        yield from self._look_again(layouts)
        for layout in layouts:
            half = max(1, self._rows // 2)
            last: tuple[Any, ...] = ()
            for chunk in self._own.of_table(layout, most=half):
                self._judge(chunk)
                last = chunk.last
                yield True
            yield from self._go_on(layout, last, half)
            for chunk in self._own.gone_from_table(layout, most=self._rows):
                self._judge(chunk)
                yield True
        for chunk in self._own.of_journal(most=self._rows):
            self._judge(chunk)
            yield True
        self._check_counters()

    def _check_counters(self) -> None:
        """Compare counters and marks, too: nothing is sent meanwhile, this is the drainer."""
        if self._sent_over is None:
            raise RuntimeError("a pass compares with a hub")
        hub = HubReader(self._sent_over)
        box = read_box(self._connection)
        found = box.discrepancies()
        try:
            if box.stream is not None and hub.has_sync_tables():
                found += compare_streams(box, box.stream, hub)[1]
        except HubUnreachable:
            raise
        except HubError as error:
            found.append(f"PostgreSQL's counters cannot be read: {error}")
        for one in found:
            self.tally.add_problem(one)

    def _look_again(self, layouts: Sequence[Layout]) -> Iterator[bool]:
        """Look at what was open: it may have been mended; a row that left the box stays open."""
        by_table = {layout.table: layout for layout in layouts}
        for table in {one["table"] for one in self._before.open}:
            entries = [one for one in self._before.open if one["table"] == table]
            layout = by_table.get(table)
            if layout is None:
                self._keep(entries)
                continue
            keys = [tuple(one["parts"]) for one in entries if one["parts"]]
            chunk = self._own.of_keys(layout, keys)
            here = {key_text(_key(layout, row)) for row in chunk.rows}
            waiting = {key_text(key) for key in self._own.still_waiting(layout, keys)}
            self._keep([one for one in entries if one["key"] not in here | waiting])
            # Those within reach of this pass are counted where their turn comes.
            self._judge(chunk, Tally())
            yield True

    def _go_on(self, layout: Layout, recent: tuple[Any, ...], most: int) -> Iterator[bool]:
        """Compare older rows, from where the last pass ended; at the end begin anew."""
        if not recent:
            self._cursors.pop(layout.table, None)
            return
        at = tuple(self._cursors.get(layout.table, ())) or recent
        if len(at) != len(layout.key):
            at = recent
        compared = 0
        for chunk in self._own.of_table(layout, below=at, most=most):
            self._judge(chunk)
            compared += len(chunk.rows)
            at = chunk.last
            yield True
        if compared >= most and _is_plain(at):
            self._cursors[layout.table] = list(at)
        else:
            self._cursors.pop(layout.table, None)
            self._beyond = 0  # all rows were looked at since: what is open is listed anew

    def _judge(self, chunk: Chunk, tally: Tally | None = None) -> None:
        if self._hub is None:
            raise RuntimeError("a pass compares with a hub")
        tally = tally or self.tally
        found = judge(self._own, self._hub, chunk, tally, self._acknowledged)
        queued = self._queue_again(chunk.layout, found) if found else set()
        left = [one for one in found if one.key not in queued]
        tally.add_unexplained(left)
        self._keep(
            {
                "table": one.layout.table,
                "key": key_text(one.key),
                "parts": list(one.key) if _is_plain(one.key) else [],
                "kind": one.kind,
            }
            for one in left
        )

    def _keep(self, entries: Any) -> None:
        for one in entries:
            self._open[one["table"], one["key"]] = one

    def _queue_again(self, layout: Layout, found: Sequence[Difference]) -> set[tuple[Any, ...]]:
        """Queue what is missing, durably; a row that was sent again before is not.

        Somebody deletes it on the hub each time: it is for a person to find out who.
        """
        missing = {one.key: one for one in found if one.kind == "missing"}
        if not missing:
            return set()
        again = self._own.were_queued_again(layout, list(missing))
        chosen = {key: one for key, one in missing.items() if key not in again}
        copies = fact_copies.entries_of(self._connection, layout, list(chosen))
        joined = self._own.joined_streams() if copies else {}
        with tables.transaction(self._connection):
            # The journal has other ids for the same layouts.
            (own,) = registered(self._connection, [layout])
            queue_again(
                self._connection,
                [QueuedChange(own.id, "I", one.row) for one in chosen.values()],
            )
            resent.remember_copies(self._connection, copies, joined)
        self.tally.queued_again += len(chosen)
        if chosen:
            logger.warning(
                "%d rows of %s are not in PostgreSQL any more: they are sent again",
                len(chosen), layout.table,
            )  # fmt: skip
        return set(chosen)


def _key(layout: Layout, row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(row[position] for position in layout.key_positions)


def _is_plain(key: Sequence[Any]) -> bool:
    """Whether JSON keeps each part of *key* as it is."""
    return all(isinstance(part, str | int) and _is_unicode(part) for part in key)


def _is_unicode(part: str | int) -> bool:
    if isinstance(part, int):
        return True
    try:
        part.encode()
    except UnicodeEncodeError:
        return False
    return True
