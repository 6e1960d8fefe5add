# SPDX-License-Identifier: Apache-2.0
"""Comparing the ledgers and the rows of the box and of PostgreSQL (``edgepaas audit``)."""

import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from edgepaas.files.node_identity import node_identity
from edgepaas.outbox import capture
from edgepaas.outbox.journal.tables import journal_path
from edgepaas.outbox.layout import read_document
from edgepaas.sync.audit.box import BoxSide, opened_for_audit, read_box
from edgepaas.sync.audit.comparison import Comparison, compare_content
from edgepaas.sync.audit.counters import compare_streams
from edgepaas.sync.audit.hub import HubReader, HubStream, content_hub, hub_reader
from edgepaas.sync.audit.marks import LostMarks, read_lost_marks
from edgepaas.sync.audit.record import still_open
from edgepaas.sync.audit.tally import Tally
from edgepaas.sync.errors import HubError
from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.losses.acknowledge import acknowledge_rows, acknowledged_lost, read_acknowledged
from edgepaas.sync.losses.lost_state import lost_sentences, rows_lost_with_state

if TYPE_CHECKING:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings

#: How often both sides are read again, since a batch may be committed between the two reads.
_ATTEMPTS = 5
_PAUSE = 0.2


@dataclass
class Audit:
    """The counters of both sides, the rows that were compared, and where they disagree."""

    box: BoxSide
    #: Whether there is a PostgreSQL to deliver rows to.
    hub_configured: bool
    #: Why the hub could not be read; empty when it was.
    hub_error: str = ""
    streams: list[HubStream] = field(default_factory=list)
    #: The rows whose content was compared; None: none could be.
    compared: Tally | None = None
    #: What PostgreSQL acknowledged while it served, and has lost.
    lost: LostMarks = field(default_factory=LostMarks)
    #: Of the rows that it lost after it had confirmed them, those that an operator knows of.
    hub_lost_acknowledged: int = 0
    #: Rows that waited in a state folder, or an SQLite file, that was deleted.
    lost_with_state: int = 0
    discrepancies: list[str] = field(default_factory=list)

    @property
    def adds_up(self) -> bool:
        """Whether nothing disagrees, as far as could be read."""
        return not self.discrepancies

    @property
    def complete(self) -> bool:
        """Whether both sides were read; a box without a hub has only one."""
        return not self.hub_error

    @property
    def not_in_place(self) -> int:
        """Accepted rows that PostgreSQL does not have as they were written, known ones too."""
        rows = self.box.counters["hub_lost"] + self.lost.rows + self.lost_with_state
        return rows + (0 if self.compared is None else self.compared.not_in_place)

    def as_dict(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        stream = self.box.stream
        return {
            "adds_up": self.adds_up,
            "complete": self.complete,
            "hub_error": self.hub_error,
            "not_in_place": self.not_in_place,
            "box": {
                **self.box.counters,
                "stream": None
                if stream is None
                else {
                    "node_id": stream.node_id,
                    "stream_id": stream.stream_id,
                    "forked_from": stream.forked_from,
                    "base": stream.base_seq,
                    "confirmed": stream.confirmed_seq,
                    "in_flight": stream.inflight_seq,
                    "last": stream.last_seq,
                    "reclaimed": self.box.reclaimed_seq,
                },
                "gaps": [asdict(gap) for gap in self.box.gaps],
                "lost": [list(one) for one in self.box.lost],
            },
            "hub": {
                "streams": [asdict(one) for one in self.streams],
                "totals": self.hub_totals(),
            },
            "hub_lost_acknowledged": self.hub_lost_acknowledged,
            "lost_with_state": self.lost_with_state,
            "lost_while_serving": asdict(self.lost),
            "compared": None if self.compared is None else self.compared.as_dict(),
            "discrepancies": self.discrepancies,
        }

    def hub_totals(self) -> dict[str, int]:
        """Return the hub's counters over all streams of this box."""
        names = ("rows", "dead", "shed", "conflicts")
        return {name: sum(getattr(one, name) for one in self.streams) for name in names}


@dataclass(frozen=True)
class _Sides:
    """How both sides are reached."""

    contract: "DatabaseContract"
    settings: "Settings"
    paths: "Paths"
    open_reader: Callable[..., AbstractContextManager[HubReader]]

    def reader(self) -> AbstractContextManager[HubReader]:
        return self.open_reader(self.settings, self.contract.hub_url)

    def hub(self) -> Hub:
        return content_hub(self.settings, self.contract.hub_url)

    def document(self) -> Mapping[str, Any] | None:
        """Return what tables.json says; None where no schema stage has run since the boot."""
        try:
            return read_document(self.paths.tables)
        except (OSError, ValueError):
            return None


def audit(
    contract: "DatabaseContract",
    settings: "Settings",
    paths: "Paths",
    *,
    deep: bool = False,
    acknowledge: bool = False,
    open_reader: Callable[..., AbstractContextManager[HubReader]] = hub_reader,
) -> Audit:
    """Read the box's file and the hub, and compare counters and content.

    Of each table the latest AUDIT_ROWS rows, with *deep* all of them. Changes nothing on either
    side, and the box may go on working; *acknowledge*: rows that are not in place count as
    known from now on. Raises BoxUnreadable, LockHeld, TooMany, OSError, sqlite3.Error; that the
    hub cannot be read is part of the result.
    """
    sides = _Sides(contract, settings, paths, open_reader)
    most = None if deep else settings.integer("AUDIT_ROWS")
    with opened_for_audit(contract.sqlite_path, paths.database_lock) as connection:
        found, compared = _audit_rows(sides, connection, most)
        if (
            connection is not None
            and contract.hub_url
            and contract.final_db_mode != "postgres_only"
        ):
            found.discrepancies += _capture_problems(sides, connection)
    found.lost = read_lost_marks(paths, settings, contract.hub_url)
    found.discrepancies += found.lost.discrepancies()
    found.hub_lost_acknowledged, lost = _hub_lost(paths, found)
    found.discrepancies += lost
    found.lost_with_state = rows_lost_with_state(paths)
    found.discrepancies += [
        f"{one}; once that is dealt with: 'edgepaas sync acknowledge'"
        for one in lost_sentences(paths)
    ]
    if compared is not None:
        if acknowledge:
            acknowledge_rows(paths, compared.unexplained)
            compared.tally.acknowledge()
        found.compared = compared.tally
        found.discrepancies += compared.tally.discrepancies()
        if not compared.complete:
            found.discrepancies += [
                f"the audit that runs by itself: {one}" for one in still_open(paths)
            ]
    return found


def _audit_rows(
    sides: _Sides, connection: sqlite3.Connection | None, most: int | None
) -> tuple[Audit, Comparison | None]:
    if not sides.contract.hub_url:
        return _audit_box(read_box(connection)), None
    try:
        found = _audit_both(sides, connection)
        if connection is None or found.box.stream is None:
            return found, None
        document = sides.document() or {"tables": {}}
        known = read_acknowledged(sides.paths)
        with sides.hub() as hub:
            return found, compare_content(
                connection,
                hub,
                document["tables"],
                known,
                most=most,
                journal=journal_path(sides.contract.sqlite_path),
            )
    except HubError as error:
        found = _audit_box(read_box(connection))
        found.hub_configured, found.hub_error = True, str(error)
        return found, None


def _audit_box(box: BoxSide) -> Audit:
    return Audit(box, hub_configured=False, discrepancies=box.discrepancies())


def _audit_both(sides: _Sides, connection: sqlite3.Connection | None) -> Audit:
    compare = partial(_compare, sides, connection)
    with sides.reader() as hub:
        found = compare(hub)
    for _ in range(_ATTEMPTS):
        if found.adds_up:
            break
        # The drainer may have committed a batch after the file was read: only what is still
        # wrong when both are read again is wrong.
        time.sleep(_PAUSE)
        with sides.reader() as hub:
            found = compare(hub)
    return found


def _compare(sides: _Sides, connection: sqlite3.Connection | None, hub: HubReader) -> Audit:
    box = read_box(connection)
    found = Audit(box, hub_configured=True, discrepancies=box.discrepancies())
    stream = box.stream
    if not hub.has_sync_tables():
        if stream is not None and stream.confirmed_seq > stream.base_seq:
            found.discrepancies.append(
                "the box delivered rows, but PostgreSQL has no table sync_streams: is it the same "
                "server?"
            )
        return found
    if stream is None:
        found.discrepancies += _vanished_file(sides, connection, hub)
        return found
    found.streams, wrong = compare_streams(box, stream, hub)
    found.discrepancies += wrong
    return found


def _vanished_file(
    sides: _Sides, connection: sqlite3.Connection | None, hub: HubReader
) -> list[str]:
    """Return what PostgreSQL knows of a file that is not there, or holds nothing, any more."""
    if sides.contract.final_db_mode == "postgres_only":
        return []
    node_id = node_identity(sides.paths).node_id
    streams = [one for one in hub.streams(node_id, node_id) if one.mark > one.base]
    if not streams:
        return []
    last = max(streams, key=lambda one: one.mark)
    beat = hub.heartbeat(node_id)
    waiting = (
        "" if beat is None else f"; {beat[0]:,} rows waited here at its heartbeat of {beat[1]}"
    )
    what = "is gone" if connection is None else "has lost its outbox"
    return [
        f"the SQLite file {sides.contract.sqlite_path} {what}: PostgreSQL knows rows of this box "
        f"up to {last.mark} of the stream {last.stream_id}{waiting}"
    ]


def _capture_problems(sides: _Sides, connection: sqlite3.Connection) -> list[str]:
    document = sides.document()
    if document is None:
        return []
    return [
        f"changes of the SQLite file may not reach PostgreSQL: {problem}"
        for problem in capture.problems(connection, document)
    ]


def _hub_lost(paths: "Paths", found: Audit) -> tuple[int, list[str]]:
    """Return how many of the lost rows are known to an operator, and what is said of the others."""
    lost = found.box.counters["hub_lost"]
    # What was acknowledged counts the rows lost while PostgreSQL served as well.
    of_marks = found.lost.rows - found.lost.open_rows
    known = min(lost, max(0, acknowledged_lost(paths) - of_marks))
    if lost == known:
        return known, []
    return known, [
        f"PostgreSQL confirmed {lost - known:,} rows that it has lost since, and that this box no "
        "longer holds; once that is dealt with: 'edgepaas sync acknowledge'"
    ]
