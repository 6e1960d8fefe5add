# SPDX-License-Identifier: Apache-2.0
"""Whether the state folder, or the SQLite file in it, was deleted while rows waited there.

The spool, which is another folder, keeps which box and which stream this was. A box that comes
up with another identity, or a file with another stream that does not go on from it, has lost
what waited. What is known of that comes from the drainer's last status, where the machine did
not boot since, and from PostgreSQL: the last heartbeat, and how far the streams had come.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from edgepaas.alerts.catalogue import STATE_LOST
from edgepaas.files import shapes
from edgepaas.files.records import RecordType
from edgepaas.timing.moment import rfc3339

if TYPE_CHECKING:
    from edgepaas.files.node_identity import Node
    from edgepaas.files.paths import Paths
    from edgepaas.outbox.stream import Stream
    from edgepaas.sync.audit.hub import HubReader
    from edgepaas.sync.status import SyncStatus

logger = logging.getLogger("edgepaas.sync")

#: Streams that are remembered, the latest last: a file that was set aside may come back.
_STREAMS = 50
#: Losses that are listed until an operator acknowledges them.
_LOSSES = 20

#: ``spool/last-known.json``.
RECORD = RecordType(
    "last-known",
    2,
    {
        "node_id": shapes.text,
        "streams": shapes.list_of(shapes.text),
        "losses": shapes.list_of(
            shapes.object_of(
                {
                    "node_id": shapes.text,
                    "stream_id": shapes.text,
                    "found_at": shapes.text,
                    "what": shapes.text,
                    "rows_waiting": shapes.optional(shapes.whole),
                    "asked_hub": shapes.flag,
                    "known": shapes.text,
                }
            )
        ),
        # Rows that waited in what was lost, and of which an operator knows.
        "acknowledged_rows": shapes.whole,
    },
    {1: lambda old: {**old, "acknowledged_rows": 0}},
)


@dataclass(frozen=True)
class LostState:
    """One loss; ``rows_waiting``: the most that is known to have waited, None: nothing is.

    ``known`` is what is known of the rows, for a person; *asked_hub*: PostgreSQL's part too.
    """

    node_id: str
    stream_id: str
    found_at: str
    what: str
    rows_waiting: int | None = None
    asked_hub: bool = False
    known: str = ""

    @property
    def sentence(self) -> str:
        """What happened, for a person."""
        return f"{self.what} (found {self.found_at}): {self.known or 'nothing is known of them'}"


def look(
    paths: "Paths",
    node: "Node",
    stream: "Stream | None",
    *,
    before: "Sequence[SyncStatus | None]",
    replaced: bool,
) -> None:
    """Compare this box and its file's *stream* with what the spool knows, and remember them.

    *before*: what this drainer, and the one before it, knew of the file; *replaced*: a file
    was set aside, so that a new stream is no news. A loss is recorded and alerted. Raises OSError.
    """
    known = RECORD.read_or_set_aside(paths.last_known)
    stream_id = "" if stream is None else stream.stream_id
    if known is None:
        if stream_id:
            _write(paths, node.node_id, [stream_id], [], 0)
        return
    streams = list(known["streams"])
    losses = list(known["losses"])
    found = _lost(known, node, stream, replaced=replaced)
    if found is not None:
        loss = _with_status(found, before)
        losses = [*losses, asdict(loss)][-_LOSSES:]
        _alert(loss)
    after = [*(one for one in streams if one != stream_id), *([stream_id] if stream_id else [])]
    if found is not None and not stream_id:
        after = []  # said once
    if (node.node_id, after[-_STREAMS:], losses) != (
        known["node_id"], known["streams"], known["losses"],
    ):  # fmt: skip
        _write(paths, node.node_id, after, losses, known["acknowledged_rows"])


def note_restored(paths: "Paths", node_id: str, stream_id: str) -> None:
    """Remember what a restore has put into place: an operator's act, by which nothing is lost.

    What waited here was looked at before (edgepaas.backup.restore). Raises OSError.
    """
    known = RECORD.read_or_none(paths.last_known)
    if known is None:
        return
    streams = [*(one for one in known["streams"] if one != stream_id), stream_id]
    _write(paths, node_id, streams[-_STREAMS:], known["losses"], known["acknowledged_rows"])


def ask_hub(paths: "Paths", hub: "HubReader") -> None:
    """Add what PostgreSQL knows to the losses that it was not asked about yet.

    Raises HubError, OSError.
    """
    known = RECORD.read_or_none(paths.last_known)
    if known is None or all(one["asked_hub"] for one in known["losses"]):
        return
    if not hub.has_sync_tables():
        return
    losses = []
    for fields in known["losses"]:
        loss = LostState(**fields)
        if not loss.asked_hub:
            loss = _with_hub(loss, hub)
            _alert(loss)
        losses.append(asdict(loss))
    _write(paths, known["node_id"], known["streams"], losses, known["acknowledged_rows"])


def lost_sentences(paths: "Paths") -> list[str]:
    """Return a sentence for each loss that no operator has acknowledged."""
    found = RECORD.read_or_none(paths.last_known)
    return [] if found is None else [LostState(**one).sentence for one in found["losses"]]


def rows_lost_with_state(paths: "Paths") -> int:
    """Return how many rows are known to have waited in what was lost, acknowledged or not."""
    found = RECORD.read_or_none(paths.last_known)
    if found is None:
        return 0
    return int(found["acknowledged_rows"]) + _rows_of(found["losses"])


def forget_losses(paths: "Paths") -> int:
    """Note that an operator knows of the losses; returns how many there were; raises OSError."""
    found = RECORD.read_or_none(paths.last_known)
    if found is None or not found["losses"]:
        return 0
    rows = found["acknowledged_rows"] + _rows_of(found["losses"])
    _write(paths, found["node_id"], found["streams"], [], rows)
    return len(found["losses"])


def _rows_of(losses: Sequence[dict[str, Any]]) -> int:
    return sum(one["rows_waiting"] or 0 for one in losses)


def _lost(
    known: dict[str, Any], node: "Node", stream: "Stream | None", *, replaced: bool
) -> LostState | None:
    """Decide whether what the spool knows is gone, other than by being set aside or copied."""
    streams: Sequence[str] = known["streams"]
    if not streams:
        return None
    last = streams[-1]
    loss = LostState(known["node_id"], last, rfc3339(time.time()), "")
    if node.node_id != known["node_id"]:
        if known["node_id"] in node.was:
            return None  # the card moved to another machine, with all that is on it
        what = f"the state folder of this box was deleted, and with it node {known['node_id']}"
        return replace(loss, what=what)
    if stream is None:
        return replace(loss, what="the SQLite file of this box was deleted")
    goes_on = stream.stream_id in streams or stream.forked_from in streams
    if goes_on or replaced:
        return None
    return replace(loss, what="the SQLite file of this box was deleted, and a new one was made")


def _with_status(loss: LostState, before: "Sequence[SyncStatus | None]") -> LostState:
    for status in before:
        if status is None or (status.node_id, status.stream_id) != (loss.node_id, loss.stream_id):
            continue
        at = f" at {status.updated}" if status.updated else ""
        known = f"{status.rows_waiting:,} rows waited there for PostgreSQL{at}"
        return replace(loss, rows_waiting=status.rows_waiting, known=known)
    return loss


def _with_hub(loss: LostState, hub: "HubReader") -> LostState:
    parts = [loss.known] if loss.known else []
    rows = loss.rows_waiting
    beat = hub.heartbeat(loss.node_id)
    if beat is not None:
        parts.append(f"{beat[0]:,} rows waited at its last heartbeat, of {beat[1]}")
        rows = max(rows or 0, beat[0])
    streams = [one for one in hub.streams(loss.node_id, loss.stream_id) if one.mark > one.base]
    if streams:
        last = max(streams, key=lambda one: one.mark)
        parts.append(
            f"PostgreSQL has its rows up to {last.mark} of the stream {last.stream_id}, "
            f"{sum(one.rows for one in streams):,} in all"
        )
    else:
        parts.append("PostgreSQL has no row that it sent")
    return replace(loss, rows_waiting=rows, asked_hub=True, known="; ".join(parts))


def _alert(loss: LostState) -> None:
    """Notify an operator: critical, unless it is known that no row waited."""
    logger.error("%s", loss.sentence)
    nothing_waited = loss.rows_waiting == 0
    STATE_LOST.raise_alert(loss.sentence, severity="warning" if nothing_waited else "critical")


def _write(
    paths: "Paths",
    node_id: str,
    streams: Sequence[str],
    losses: Sequence[dict[str, Any]],
    acknowledged_rows: int,
) -> None:
    RECORD.write(
        paths.last_known,
        {
            "node_id": node_id,
            "streams": list(streams)[-_STREAMS:],
            "losses": list(losses),
            "acknowledged_rows": acknowledged_rows,
        },
    )
