# SPDX-License-Identifier: Apache-2.0
"""What became of entries in flight, by the marks of the hub; decides, and does nothing."""

from collections.abc import Collection, Mapping, Sequence

from edgepaas.outbox.journal.entries import StoredEntry
from edgepaas.outbox.journal.tables import CONFIRMED

#: An entry, and its state from now on; None: it goes.
Decision = tuple[StoredEntry, int | None]


def decide(
    entries: Sequence[StoredEntry],
    hub: Mapping[str, int],
    alive: Collection[str],
    acknowledged: Mapping[str, int],
    *,
    went_back: bool,
) -> list[Decision]:
    """Return those of *entries* (in flight) that are settled.

    *hub*: the marks of the box's streams there; *alive*: streams that a connection may still
    move; *acknowledged*: the mark up to which each stream is known to have been answered. A hub
    that has less than that went back: what is in flight may have been acknowledged as well, by a
    process that was killed before it had written so, and is kept.
    """
    back = went_back or any(
        hub.get(one.stream_id, 0) < acknowledged.get(one.stream_id, 0) for one in entries
    )
    found: list[Decision] = []
    for one in entries:
        known = max(hub.get(one.stream_id, 0), acknowledged.get(one.stream_id, 0))
        if not one.stream_id or known >= one.mark:
            found.append((one, CONFIRMED))
        elif one.stream_id not in alive:
            found.append((one, CONFIRMED if back else None))
    return found
