# SPDX-License-Identifier: Apache-2.0
"""Comparing what the box knows of its streams with what the hub has; decides, and does nothing."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Mark(NamedTuple):
    """How far a stream has come: committed transactions, and the forwarded rows they wrote."""

    transactions: int = 0
    rows: int = 0

    def plus(self, other: "Mark") -> "Mark":
        """Return the sum of both."""
        return Mark(self.transactions + other.transactions, self.rows + other.rows)

    def beyond(self, other: "Mark") -> "Mark":
        """Return what this mark has and *other* does not; never negative."""
        return Mark(max(0, self.transactions - other.transactions), max(0, self.rows - other.rows))


NOTHING = Mark()


def total(marks: Iterable[Mark]) -> Mark:
    """Return the sum of *marks*."""
    found = NOTHING
    for mark in marks:
        found = found.plus(mark)
    return found


class Loss(NamedTuple):
    """A stream of which the hub has less than it acknowledged.

    *resent*: how many of the rows the box had in its journal, and sends again.
    """

    known: Mark
    hub: Mark
    resent: int = 0

    @property
    def missing(self) -> Mark:
        """What is missing on the hub."""
        return self.known.beyond(self.hub)

    @property
    def lost(self) -> Mark:
        """What is missing on the hub, without the rows that are sent again."""
        transactions, rows = self.missing
        return Mark(transactions, max(0, rows - self.resent))

    def joined(self, other: "Loss") -> "Loss":
        """Return both findings about one stream as one: from the lowest mark to the highest."""
        return Loss(
            max(self.known, other.known),
            min(self.hub, other.hub),
            max(self.resent, other.resent),
        )


class Known(NamedTuple):
    """What the box knows, read before the hub is asked.

    *streams* are those of connections, open or ended. The *sum* is a stream of its own, which
    takes the marks of ended ones in; *joining* are the streams that it takes in just now, by
    a statement whose answer may not have come.
    """

    streams: Mapping[str, Mark]
    sum_id: str = ""
    sum_mark: Mark = NOTHING
    joining: frozenset[str] = frozenset()

    @property
    def joined_mark(self) -> Mark:
        """The sum's mark once the streams that are joining are a part of it."""
        return self.sum_mark.plus(total(self.streams.get(one, NOTHING) for one in self.joining))

    def is_joined(self, hub: Mapping[str, Mark]) -> bool:
        """Whether the hub has committed the statement that was on its way."""
        return bool(self.joining) and (
            hub.get(self.sum_id, NOTHING).transactions >= self.joined_mark.transactions
        )


def find_losses(
    known: Known, hub: Mapping[str, Mark], unknown: Mapping[str, Mark]
) -> dict[str, Loss]:
    """Return the streams of which *hub* has less than *known*, by id.

    A mark that is higher on the hub is none: its transaction was not answered, or was
    committed since. *unknown* are streams on the hub that the box has joined to its sum long
    ago: a restored backup brings them back, and what they hold is not missing.
    """
    joined = known.is_joined(hub)
    losses = {}
    for identity, mark in known.streams.items():
        if joined and identity in known.joining:
            continue
        there = hub.get(identity, NOTHING)
        if there.transactions < mark.transactions:
            losses[identity] = Loss(mark, there)
    there = hub.get(known.sum_id, NOTHING)
    if known.sum_id and there.transactions < known.sum_mark.transactions:
        present = there.plus(total(unknown.values()))
        losses[known.sum_id] = Loss(known.sum_mark, min(present, known.sum_mark))
    return losses
