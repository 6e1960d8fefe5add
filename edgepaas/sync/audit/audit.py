# SPDX-License-Identifier: Apache-2.0
"""The ledger from both sides: is every row that the box accepted where it belongs?"""

import sqlite3
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from edgepaas.outbox.stream import Stream
from edgepaas.sync.audit.box import BoxSide, opened_for_audit, read_box
from edgepaas.sync.audit.hub import Compared, HubReader, HubStream, asking, compare_by_key
from edgepaas.sync.errors import HubError

if TYPE_CHECKING:
    from edgepaas.decision.contract import DatabaseContract
    from edgepaas.files.paths import Paths
    from edgepaas.settings import Settings

#: How often both sides are read again when a batch was committed between the two looks.
_ATTEMPTS = 5
_PAUSE = 0.2


@dataclass
class Audit:
    """What both sides say, and what of it does not agree."""

    box: BoxSide
    #: Whether there is a PostgreSQL that rows are to go to.
    hub_configured: bool
    #: Why the hub could not be asked; empty when it was.
    unasked: str = ""
    streams: list[HubStream] = field(default_factory=list)
    compared: Compared | None = None
    discrepancies: list[str] = field(default_factory=list)

    @property
    def adds_up(self) -> bool:
        """Whether nothing disagrees, as far as could be asked."""
        return not self.discrepancies

    @property
    def complete(self) -> bool:
        """Whether both sides were asked; a box without a hub has only one."""
        return not self.unasked

    def as_dict(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        stream = self.box.stream
        return {
            "adds_up": self.adds_up,
            "complete": self.complete,
            "unasked": self.unasked,
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
    ask: Callable[..., Any] = asking,
) -> Audit:
    """Read the box's file and the hub, and compare; *deep* compares every key as well.

    Nothing is changed on either side, and the box may go on working meanwhile. Raises
    BoxUnreadable, LockHeld, sqlite3.Error; a hub that cannot be asked is in the result.
    """
    with opened_for_audit(contract.sqlite_path, paths.database_lock) as connection:
        if not contract.hub_url:
            return _box_alone(read_box(connection))
        try:
            with ask(settings, contract.hub_url) as hub:
                return _both(connection, hub, lambda: ask(settings, contract.hub_url), deep=deep)
        except HubError as error:
            found = _box_alone(read_box(connection))
            found.hub_configured, found.unasked = True, str(error)
            return found


def _box_alone(box: BoxSide) -> Audit:
    return Audit(box, hub_configured=False, discrepancies=box.discrepancies())


def _both(
    connection: sqlite3.Connection | None,
    hub: HubReader,
    again: Callable[[], Any],
    *,
    deep: bool,
) -> Audit:
    found = _look(connection, hub)
    for _ in range(_ATTEMPTS):
        if found.adds_up:
            break
        # The drainer may have committed a batch after the file was read: only what stays
        # wrong when both are read anew is wrong.
        time.sleep(_PAUSE)
        with again() as another:
            found = _look(connection, another)
    if deep and connection is not None and found.box.stream is not None:
        # The file was read first: what it had delivered then has to be there by now.
        with again() as another:
            found.compared = compare_by_key(connection, another, found.box.stream)
        found.discrepancies += _of_comparison(found.compared)
    return found


def _look(connection: sqlite3.Connection | None, hub: HubReader) -> Audit:
    box = read_box(connection)
    found = Audit(box, hub_configured=True, discrepancies=box.discrepancies())
    stream = box.stream
    if not hub.forwards():
        if stream is not None and stream.confirmed_seq > stream.base_seq:
            found.discrepancies.append(
                "the box delivered rows, but PostgreSQL has no sync_streams: is it the same one?"
            )
        return found
    if stream is not None:
        found.streams = hub.streams(stream.node_id, stream.stream_id)
        theirs = next((one for one in found.streams if one.stream_id == stream.stream_id), None)
        if wrong := _of_marks(box, stream, theirs):
            found.discrepancies.append(wrong)
    for one in found.streams:
        found.discrepancies += _of_counters(one)
    return found


def _of_marks(box: BoxSide, stream: Stream, theirs: HubStream | None) -> str:
    """Compare the box's marks with the hub's row of the same stream; "" where they agree."""
    if theirs is None:
        if stream.confirmed_seq == stream.base_seq:
            return ""
        return (
            f"PostgreSQL does not know the stream {stream.stream_id}, of which the box "
            f"delivered rows up to {stream.confirmed_seq}"
        )
    confirmed = (stream.confirmed_batch, stream.confirmed_seq)
    in_flight = (stream.inflight_batch, stream.inflight_seq)
    if theirs.mark > theirs.base and (theirs.batch, theirs.mark) not in (confirmed, in_flight):
        return (
            f"PostgreSQL's mark of the stream {stream.stream_id} is {theirs.mark} (batch "
            f"{theirs.batch or 'none'}); the box confirmed {stream.confirmed_seq} (batch "
            f"{stream.confirmed_batch or 'none'}) and has {stream.inflight_seq or 'nothing'} "
            "on its way"
        )
    numbers = (theirs.base + 1, theirs.mark)
    expected = theirs.mark - theirs.base - box.shed_between(*numbers) - box.absent_between(*numbers)
    if theirs.rows + theirs.dead != expected:
        return (
            f"up to {theirs.mark} the box sent {expected} rows; PostgreSQL counted {theirs.rows} "
            f"taken and {theirs.dead} dead, {theirs.rows + theirs.dead} in all"
        )
    given_up = sum(gap.rows for gap in box.gaps if theirs.base < gap.seq <= theirs.mark)
    if theirs.shed != given_up:
        return f"the box gave up {given_up} rows and said so; PostgreSQL counted {theirs.shed}"
    return ""


def _of_counters(one: HubStream) -> list[str]:
    """Compare the hub's counters of a stream with what is really in its tables."""
    pairs = (
        ("dead letters", one.dead, one.dead_letters),
        ("conflicts", one.conflicts, one.conflicts_counted),
        ("rows given up", one.shed, one.gap_rows),
    )
    return [
        f"the stream {one.stream_id} counts {counted} {what} in PostgreSQL, where there are {there}"
        for what, counted, there in pairs
        if counted != there
    ]


def _of_comparison(compared: Compared) -> list[str]:
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
