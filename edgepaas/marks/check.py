# SPDX-License-Identifier: Apache-2.0
"""One comparison of the box's streams with the hub: what is missing is counted and alerted."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgepaas.alerts.catalogue import ACKNOWLEDGED_ROWS_LOST
from edgepaas.marks.comparison import NOTHING, Known, Loss, Mark, find_losses, total
from edgepaas.marks.hub import Ask, HubStreams, read_streams
from edgepaas.marks.record import MarksRecord, changing, is_alive, read_record

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths

logger = logging.getLogger("edgepaas.marks")


@dataclass(frozen=True)
class Found:
    """What a comparison found: the streams on the hub (None: a standby answered), and losses."""

    hub: HubStreams | None
    losses: Mapping[str, Loss]


@dataclass(frozen=True)
class OwnMarks:
    """The streams of the process that compares: its name, and their marks as of now."""

    owner: str = ""
    marks: Callable[[], Mapping[str, Mark]] = dict


NO_MARKS = OwnMarks()


def compare(
    ask: Ask,
    paths: "Paths",
    node_id: str,
    *,
    tables: Sequence[str] = (),
    own: OwnMarks = NO_MARKS,
    beside: str = "",
    journaled: bool = False,
    joined: Callable[[], Collection[str]] = tuple,
) -> Found:
    """Compare all streams of the box with the hub that *ask* reaches, and act on a difference.

    The box's values are read before the hub's. What seems to be missing is looked at once
    more with the record locked, since another process may have joined streams meanwhile, and
    then recorded and alerted. *beside*: an SQL expression that is asked for in the same round
    trip. *journaled*: the box has a journal, from which the drainer sends it again
    (edgepaas.sync.resend); only what that lacks is lost. *joined* returns streams that were
    joined to the sum, where that is known. Raises what *ask* raises, OSError, LockHeld.
    """
    known = _read_known(own.marks(), own, read_record(paths, node_id))
    hub = read_streams(ask, node_id, tables, beside=beside)
    if hub is None or not hub.readable:
        return Found(hub, {})
    if not find_losses(known, hub.marks, unknown_streams(known, hub, own, paths)):
        if known.sum_id:
            _look_for_returned(paths, node_id, hub)
        return Found(hub, {})
    losses: dict[str, Loss] = {}
    try:
        with changing(paths, node_id) as record:
            known = _read_known(own.marks(), own, record)
            hub = read_streams(ask, node_id, tables, beside=beside)
            if hub is None or not hub.readable:
                return Found(hub, {})
            unknown = unknown_streams(known, hub, own, paths)
            losses = find_losses(known, hub.marks, unknown)
            if known.sum_id in losses:
                # A process that runs does not write them any more, either.
                for identity in hub.marks.keys() & set(joined()) - known.streams.keys():
                    unknown[identity] = hub.marks[identity]
                losses = find_losses(known, hub.marks, unknown)
            if losses:
                _enter(record, known, hub, losses, unknown)
                for identity in losses.keys() & own.marks().keys() & record.owners.keys():
                    record.owners[identity] = ""
    except OSError as error:
        if not losses:
            raise
        # A dead disk must not keep anybody from being notified.
        logger.error("what PostgreSQL lost cannot be written down: %s", error)
    if losses:
        _alert(total(loss.lost for loss in losses.values()), record.lost, journaled=journaled)
    return Found(hub, losses)


def missing_now(ask: Ask, paths: "Paths", node_id: str) -> Mark:
    """Return what the hub lacks that the record does not have as lost yet; changes nothing.

    Raises what *ask* raises, OSError.
    """
    known = _read_known({}, NO_MARKS, read_record(paths, node_id))
    hub = read_streams(ask, node_id, ())
    if hub is None or not hub.readable:
        return NOTHING
    losses = find_losses(known, hub.marks, unknown_streams(known, hub, NO_MARKS, paths))
    return total(loss.lost for loss in losses.values())


def _read_known(mine: Mapping[str, Mark], own: OwnMarks, record: MarksRecord | None) -> Known:
    """Return what the box knows; *mine*: the marks of *own*, which were read before *record*."""
    if record is None:
        return Known(mine)
    others = {
        identity: mark
        for identity, mark in record.streams.items()
        if not own.owner or record.owners[identity] != own.owner
    }
    return record.known()._replace(streams={**others, **mine})


def unknown_streams(
    known: Known, hub: HubStreams, own: OwnMarks, paths: "Paths"
) -> dict[str, Mark]:
    """Return the streams on the hub that no process of this box writes, and none remembers."""
    alive: dict[str, bool] = {own.owner: True} if own.owner else {}
    found = {}
    for identity, mark in hub.marks.items():
        owner = hub.owners[identity]
        if identity in known.streams or identity == known.sum_id:
            continue
        if owner not in alive:
            alive[owner] = is_alive(paths, owner)
        # One of this very process is new, or was joined and brought back by a restore.
        if not alive[owner] or (owner == own.owner and identity not in own.marks()):
            found[identity] = mark
    return found


def _enter(
    record: MarksRecord,
    known: Known,
    hub: HubStreams,
    losses: Mapping[str, Loss],
    unknown: Mapping[str, Mark],
) -> None:
    """Record *losses*; from now on the box expects what the hub has."""
    if known.is_joined(hub.marks):
        record.set_joined()
    for identity, loss in losses.items():
        record.add_loss(identity, loss)
        if identity in hub.marks:
            owner = record.owners.get(identity, "")
            record.set_stream(identity, hub.marks[identity], owner)
        else:
            record.drop_stream(identity)
    if known.sum_id in losses:
        record.begin_sum()
        for identity, mark in unknown.items():
            record.set_stream(identity, mark, "")


def _look_for_returned(paths: "Paths", node_id: str, hub: HubStreams) -> None:
    """Take back what was recorded as lost and is there again, as after a restore in two steps."""
    record = read_record(paths, node_id)
    if record is None or not _returned(record, hub):
        return
    with changing(paths, node_id) as record:
        for identity, loss in _returned(record, hub).items():
            record.losses[identity] = loss
            record.set_stream(identity, loss.hub, "")
        logger.warning(
            "PostgreSQL has rows again that it had lost; %d are missing now", record.lost.rows
        )


def _returned(record: MarksRecord, hub: HubStreams) -> dict[str, Loss]:
    return {
        identity: loss._replace(hub=hub.marks[identity])
        for identity, loss in record.losses.items()
        if hub.marks.get(identity, NOTHING) > loss.hub and loss.known > loss.hub
    }


def alert_lost(lost: Mark) -> None:
    """Alert that *lost* is in no journal of this box either."""
    logger.error("%d rows that PostgreSQL had acknowledged and lost are not here either", lost.rows)
    ACKNOWLEDGED_ROWS_LOST.raise_alert(
        f"PostgreSQL went back in time: {lost.rows:,} rows that it had acknowledged to this box "
        "while it served are lost; the box's journal does not have them either"
    )


def _alert(found: Mark, ever: Mark, *, journaled: bool) -> None:
    if not found.rows:
        logger.warning(
            "PostgreSQL went back in time: it lacks %d transactions of this box, which wrote no "
            "row of a forwarded table", found.transactions,
        )  # fmt: skip
        return
    logger.error(
        "PostgreSQL went back in time: %d rows in %d transactions that it had acknowledged are "
        "not there", found.rows, found.transactions,
    )  # fmt: skip
    again = "what this box's journal has of them is sent again" if journaled else ""
    ACKNOWLEDGED_ROWS_LOST.raise_alert(
        f"PostgreSQL went back in time: it lacks {found.rows:,} rows, in {found.transactions:,} "
        f"transactions, that it had acknowledged to this box while it served; "
        f"{again or f'{ever.rows:,} rows in all so far'}",
        severity="warning" if journaled else "critical",
    )
