# SPDX-License-Identifier: Apache-2.0
"""What became of entries in flight, by the marks of the hub; decides, and does nothing."""

from collections.abc import Collection, Mapping, Sequence

from edgepaas.outbox.journal.entries import StoredEntry
from edgepaas.outbox.journal.tables import CONFIRMED, DOUBTFUL, IN_FLIGHT, UNANSWERED

#: An entry, and its state from now on; None: it goes.
Decision = tuple[StoredEntry, int | None]


def decide(
    entries: Sequence[StoredEntry],
    hub: Mapping[str, int],
    abandoned: Collection[int],
    acknowledged: Mapping[str, int],
) -> list[Decision]:
    """Return those of *entries* (not settled) that are settled now.

    *hub*: the marks of the box's streams there; *abandoned*: the orders of entries that no
    connection could commit any more when the marks were read; *acknowledged*: the mark up to which
    each stream is known to have been answered.

    An abandoned entry that the hub lacks goes where its process has written that nobody was told
    of it. Else that process was killed, perhaps after a client had its answer, and the hub may
    have lost this transaction alone, so that no other mark shows it: the entry is in doubt.
    """
    found: list[Decision] = []
    for one in entries:
        known = max(hub.get(one.stream_id, 0), acknowledged.get(one.stream_id, 0))
        if not one.stream_id or known >= one.mark:
            found.append((one, CONFIRMED))
        elif one.order not in abandoned:
            continue
        elif one.state == UNANSWERED:
            found.append((one, None))
        elif one.state == IN_FLIGHT:
            found.append((one, DOUBTFUL))
    return found
