# SPDX-License-Identifier: Apache-2.0
"""Counting what a comparison of content found, each row once, and what it means."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgepaas.outbox.reading import key_text
from edgepaas.sync.audit.own_rows import Chunk, OwnRows
from edgepaas.sync.content.content import Difference, HubContent, NotComparable
from edgepaas.sync.errors import HubError, HubUnreachable

#: Rows that are named.
NAMED = 5


@dataclass
class Tally:
    """What became of the rows that were looked for; all but ``in_place`` are not in place.

    ``missing``, ``differing`` and ``doubled`` are explained by nothing. ``acknowledged`` are
    such ones that an operator knows of. The others are explained by the hub's own tables: dead
    letters (``dead_waiting``, ``dead_discarded``), tombstones (``deleted``), ``conflicts``; or by
    the journal: this box changed them while PostgreSQL served (``changed_here``).
    ``queued_again`` were missing, and are on their way once more.
    """

    checked: int = 0
    missing: int = 0
    differing: int = 0
    doubled: int = 0
    acknowledged: int = 0
    dead_waiting: int = 0
    dead_discarded: int = 0
    deleted: int = 0
    changed_here: int = 0
    conflicts: int = 0
    queued_again: int = 0
    #: The first few unexplained ones, as ``table key``.
    examples: list[str] = field(default_factory=list)
    #: What could not be compared, one sentence each.
    problems: list[str] = field(default_factory=list)

    @property
    def unexplained(self) -> int:
        """Rows of which nobody knows why they are not in place, and that are not sent again."""
        return self.missing + self.differing + self.doubled

    @property
    def explained(self) -> int:
        """Rows that are not in place, for a reason that is on record."""
        by_hub = self.dead_waiting + self.dead_discarded + self.deleted + self.conflicts
        return by_hub + self.changed_here

    @property
    def not_in_place(self) -> int:
        """All rows that the hub does not have as the box wrote them."""
        return self.unexplained + self.explained + self.acknowledged + self.queued_again

    @property
    def in_place(self) -> int:
        """Rows that are on the hub, equal to the bit."""
        return self.checked - self.not_in_place

    def counts(self) -> dict[str, int]:
        """Return the numbers by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, int)}

    def as_dict(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        return {
            **vars(self),
            "unexplained": self.unexplained,
            "explained": self.explained,
            "not_in_place": self.not_in_place,
            "in_place": self.in_place,
        }

    def add_explained(self, found: Iterable[Difference]) -> None:
        """Count differences that the hub's own tables explain."""
        for one in found:
            self._count(_EXPLAINED[one.reason or ""], 1)

    def add_unexplained(self, found: Iterable[Difference]) -> None:
        """Count differences that nothing explains."""
        for one in found:
            self._count(_KINDS[one.kind], 1)
            if len(self.examples) < NAMED:
                self.examples.append(one.text)

    def acknowledge(self) -> None:
        """Count what nothing explains as known to an operator from now on."""
        self.acknowledged += self.unexplained
        self.missing = self.differing = self.doubled = 0

    def add_problem(self, problem: str) -> None:
        """Note what could not be compared, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def _count(self, name: str, rows: int) -> None:
        setattr(self, name, getattr(self, name) + rows)

    def discrepancies(self) -> list[str]:
        """Return what does not add up, one sentence each."""
        named = f", among them {', '.join(self.examples)}" if self.examples else ""
        found = [
            f"{rows:,} rows {what}"
            for rows, what in (
                (self.missing, "that PostgreSQL had are not there"),
                (self.differing, "have other values in PostgreSQL than this box wrote"),
                (self.doubled, "are in PostgreSQL more than once"),
            )
            if rows
        ]
        if found:
            found[-1] += named
        return found + self.problems


_KINDS = {"missing": "missing", "differs": "differing", "doubled": "doubled"}
_EXPLAINED = {
    "waiting": "dead_waiting",
    "discarded": "dead_discarded",
    "deleted": "deleted",
    "conflict": "conflicts",
}


def judge(
    own: OwnRows,
    hub: HubContent,
    chunk: Chunk,
    tally: Tally,
    acknowledged: Mapping[str, frozenset[str]],
) -> list[Difference]:
    """Compare *chunk*, count what is explained, and return what is not, uncounted.

    *acknowledged*: by table the keys of rows that an operator knows of. Raises HubUnreachable,
    sqlite3.Error.
    """
    try:
        table = hub.table(chunk.layout)
        found = hub.differences(chunk.layout, chunk.rows)
        if found:
            found = _again(own, hub, chunk, found)
    except HubUnreachable:
        raise
    except (NotComparable, HubError) as error:
        # What PostgreSQL answers to a comparison must not stop anything else.
        tally.add_problem(f"the rows of {chunk.layout.table} cannot be compared: {error}")
        return []
    for problem in table.problems:
        tally.add_problem(problem)
    tally.checked += len(chunk.rows)
    tally.add_explained(one for one in found if one.reason is not None)
    left = [one for one in found if one.reason is None]
    changed = own.changed_while_serving(chunk.layout, [one.key for one in left]) if left else set()
    tally.changed_here += len(changed)
    known = acknowledged.get(chunk.layout.table, frozenset())
    unexplained = []
    for one in left:
        if key_text(one.key) in known:
            tally.acknowledged += 1
        elif one.key not in changed:
            unexplained.append(one)
    return unexplained


def _again(
    own: OwnRows, hub: HubContent, chunk: Chunk, found: Sequence[Difference]
) -> list[Difference]:
    """Look once more at what was *found*: rows may have been written or sent meanwhile."""
    waiting = own.still_waiting(chunk.layout, [one.key for one in found])
    return hub.differences(chunk.layout, [one.row for one in found if one.key not in waiting])
