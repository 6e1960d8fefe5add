# SPDX-License-Identifier: Apache-2.0
"""Comparing the counters and marks of both sides; decides, but for asking the hub."""

from edgepaas.outbox.stream import Stream
from edgepaas.sync.audit.box import BoxSide
from edgepaas.sync.audit.hub import HubReader, HubStream


def compare_streams(
    box: BoxSide, stream: Stream, hub: HubReader
) -> tuple[list[HubStream], list[str]]:
    """Return the box's streams on *hub*, and what disagrees; raises HubError."""
    streams = hub.streams(stream.node_id, stream.stream_id)
    own = next((one for one in streams if one.stream_id == stream.stream_id), None)
    wrong = check_marks(box, stream, own)
    found = [wrong] if wrong else []
    for one in streams:
        found += check_counters(one)
    return streams, found


def check_marks(box: BoxSide, stream: Stream, hub_stream: HubStream | None) -> str:
    """Compare the box's marks with the hub's row of the same stream; "" where they agree."""
    if hub_stream is None:
        if stream.confirmed_seq == stream.base_seq:
            return ""
        return (
            f"PostgreSQL does not know the stream {stream.stream_id}, of which the box "
            f"delivered rows up to {stream.confirmed_seq}"
        )
    known = [(stream.confirmed_batch, stream.confirmed_seq)]
    if stream.inflight_batch:
        known.append((stream.inflight_batch, stream.inflight_seq))
    # At its base, too: a hub that was restored to where the stream began has nothing of it.
    if (hub_stream.batch, hub_stream.mark) not in known:
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


def check_counters(one: HubStream) -> list[str]:
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
