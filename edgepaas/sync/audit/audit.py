# SPDX-License-Identifier: Apache-2.0
"""Comparing the ledgers of the box and of PostgreSQL (``edgepaas audit``)."""

import sqlite3
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from edgepaas.outbox.stream import Stream
from edgepaas.sync.audit.box import BoxSide, opened_for_audit, read_box
from edgepaas.sync.audit.hub import HubReader, HubStream, KeyComparison, compare_by_key, hub_reader
from edgepaas.sync.audit.marks import LostMarks, read_lost_marks
from edgepaas.sync.errors import HubError

if TYPE_CHECKING:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings

#: How often both sides are read again, since a batch may be committed between the two reads.
_ATTEMPTS = 5
_PAUSE = 0.2


@dataclass
class Audit:
    """The counters of both sides, and where they disagree."""

    box: BoxSide
    #: Whether there is a PostgreSQL to deliver rows to.
    hub_configured: bool
    #: Why the hub could not be read; empty when it was.
    hub_error: str = ""
    streams: list[HubStream] = field(default_factory=list)
    compared: KeyComparison | None = None
    #: What PostgreSQL acknowledged while it served, and has lost.
    lost: LostMarks = field(default_factory=LostMarks)
    discrepancies: list[str] = field(default_factory=list)

    @property
    def adds_up(self) -> bool:
        """Whether nothing disagrees, as far as could be read."""
        return not self.discrepancies

    @property
    def complete(self) -> bool:
        """Whether both sides were read; a box without a hub has only one."""
        return not self.hub_error

    def as_dict(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        stream = self.box.stream
        return {
            "adds_up": self.adds_up,
            "complete": self.complete,
            "hub_error": self.hub_error,
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
            "lost_while_serving": asdict(self.lost),
            "compared": None if self.compared is None else asdict(self.compared),
            "discrepancies": self.discrepancies,
        }

    def hub_totals(self) -> dict[str, int]:
        """Return the hub's counters over all streams of this box."""
        names = ("rows", "dead", "shed", "conflicts")
        return {name: sum(getattr(one, name) for one in self.streams) for name in names}


def audit(
    contract: "DatabaseContract",
    settings: "Settings",
    paths: "Paths",
    *,
    deep: bool = False,
    open_reader: Callable[..., Any] = hub_reader,
) -> Audit:
    """Read the box's file and the hub, and compare; *deep* also compares every key.

    Changes nothing on either side, and the box may go on working. Raises BoxUnreadable,
    LockHeld, sqlite3.Error; that the hub cannot be read is part of the result.
    """
    found = _audit_rows(contract, settings, paths, deep=deep, open_reader=open_reader)
    found.lost = read_lost_marks(paths, settings, contract.hub_url)
    found.discrepancies += found.lost.discrepancies()
    return found


def _audit_rows(
    contract: "DatabaseContract",
    settings: "Settings",
    paths: "Paths",
    *,
    deep: bool,
    open_reader: Callable[..., Any],
) -> Audit:
    with opened_for_audit(contract.sqlite_path, paths.database_lock) as connection:
        if not contract.hub_url:
            return _audit_box(read_box(connection))
        try:
            with open_reader(settings, contract.hub_url) as hub:
                return _audit_both(
                    connection, hub, lambda: open_reader(settings, contract.hub_url), deep=deep
                )
        except HubError as error:
            found = _audit_box(read_box(connection))
            found.hub_configured, found.hub_error = True, str(error)
            return found


def _audit_box(box: BoxSide) -> Audit:
    return Audit(box, hub_configured=False, discrepancies=box.discrepancies())


def _audit_both(
    connection: sqlite3.Connection | None,
    hub: HubReader,
    reopen: Callable[[], Any],
    *,
    deep: bool,
) -> Audit:
    found = _compare(connection, hub)
    for _ in range(_ATTEMPTS):
        if found.adds_up:
            break
        # The drainer may have committed a batch after the file was read: only what is still
        # wrong when both are read again is wrong.
        time.sleep(_PAUSE)
        with reopen() as another:
            found = _compare(connection, another)
    if deep and connection is not None and found.box.stream is not None:
        # The file was read first: what it had delivered by then has to be on the hub now.
        with reopen() as another:
            found.compared = compare_by_key(connection, another, found.box.stream)
        found.discrepancies += _check_keys(found.compared)
    return found


def _compare(connection: sqlite3.Connection | None, hub: HubReader) -> Audit:
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
    if stream is not None:
        found.streams = hub.streams(stream.node_id, stream.stream_id)
        hub_stream = next((one for one in found.streams if one.stream_id == stream.stream_id), None)
        if wrong := _check_marks(box, stream, hub_stream):
            found.discrepancies.append(wrong)
    for one in found.streams:
        found.discrepancies += _check_counters(one)
    return found


def _check_marks(box: BoxSide, stream: Stream, hub_stream: HubStream | None) -> str:
    """Compare the box's marks with the hub's row of the same stream; "" where they agree."""
    if hub_stream is None:
        if stream.confirmed_seq == stream.base_seq:
            return ""
        return (
            f"PostgreSQL does not know the stream {stream.stream_id}, of which the box "
            f"delivered rows up to {stream.confirmed_seq}"
        )
    confirmed = (stream.confirmed_batch, stream.confirmed_seq)
    in_flight = (stream.inflight_batch, stream.inflight_seq)
    if hub_stream.mark > hub_stream.base and (hub_stream.batch, hub_stream.mark) not in (
        confirmed,
        in_flight,
    ):
        return (
            f"PostgreSQL's mark of the stream {stream.stream_id} is {hub_stream.mark} (batch "
            f"{hub_stream.batch or 'none'}); the box confirmed {stream.confirmed_seq} (batch "
            f"{stream.confirmed_batch or 'none'}) and has {stream.inflight_seq or 'nothing'} "
            "in flight"
        )
    numbers = (hub_stream.base + 1, hub_stream.mark)
    expected = (
        hub_stream.mark
        - hub_stream.base
        - box.shed_between(*numbers)
        - box.missing_between(*numbers)
    )
    if hub_stream.rows + hub_stream.dead != expected:
        return (
            f"up to {hub_stream.mark} the box sent {expected} rows; PostgreSQL counted "
            f"{hub_stream.rows} applied and {hub_stream.dead} dead, "
            f"{hub_stream.rows + hub_stream.dead} in all"
        )
    given_up = sum(gap.rows for gap in box.gaps if hub_stream.base < gap.seq <= hub_stream.mark)
    if hub_stream.shed != given_up:
        return f"the box reported {given_up} rows as given up; PostgreSQL counted {hub_stream.shed}"
    return ""


def _check_counters(one: HubStream) -> list[str]:
    """Compare the hub's counters of a stream with the rows of its tables."""
    pairs = (
        ("dead letters", one.dead, one.dead_letters),
        ("conflicts", one.conflicts, one.conflicts_counted),
        ("rows given up", one.shed, one.gap_rows),
    )
    return [
        f"PostgreSQL counts {counted} {what} of the stream {one.stream_id}, and has {present}"
        for what, counted, present in pairs
        if counted != present
    ]


def _check_keys(compared: KeyComparison) -> list[str]:
    found = [
        f"PostgreSQL has no table {table}, of which the box delivered rows"
        for table in compared.no_table
    ]
    if compared.missing:
        found.append(
            f"{compared.missing} delivered facts are not in PostgreSQL, among them "
            + ", ".join(compared.examples)
        )
    return found
