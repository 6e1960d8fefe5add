# SPDX-License-Identifier: Apache-2.0
"""Counting what a comparison of shared rows found."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from edgepaas.outbox.reading import key_text
from edgepaas.sync.audit.tally import NAMED

#: same: equal on both sides, to the bit, or on neither. waiting: the box changed it since the
#: last pass of the mirror, and it is sent, or was. changed_there, deleted_there: PostgreSQL has
#: changed since that pass. undecided: both sides may have. The others were changed on the box past
#: capture, and PostgreSQL has them as they were: unsent (it has none), altered, undeleted; or it
#: has several, doubled.
Verdict = Literal[
    "same", "waiting", "changed_there", "deleted_there", "undecided",
    "unsent", "altered", "undeleted", "doubled",
]  # fmt: skip
#: What is said of each that does not add up.
WRONG: dict[Verdict, str] = {
    "unsent": "were never sent: they were written past capture",
    "altered": "were changed on this box past capture, and are in PostgreSQL as they were before",
    "undeleted": "were deleted on this box past capture, and are in PostgreSQL still",
    "doubled": "are in PostgreSQL more than once",
}


@dataclass
class SharedTally:
    """What became of the shared rows of the box; the names are those of the verdicts.

    ``acknowledged``: an operator knows of them. ``queued_again``: they were never sent, and are
    on their way now.
    """

    checked: int = 0
    same: int = 0
    waiting: int = 0
    changed_there: int = 0
    deleted_there: int = 0
    undecided: int = 0
    unsent: int = 0
    altered: int = 0
    undeleted: int = 0
    doubled: int = 0
    acknowledged: int = 0
    queued_again: int = 0
    #: The first few that do not add up, as ``table key``.
    examples: list[str] = field(default_factory=list)
    #: Tables whose differing rows cannot be judged before the mirror has compared them.
    unjudged: list[str] = field(default_factory=list)
    #: What could not be compared, one sentence each.
    problems: list[str] = field(default_factory=list)

    @property
    def not_in_place(self) -> int:
        """Rows of which PostgreSQL does not have what was written here."""
        wrong = self.unsent + self.altered + self.undeleted + self.doubled
        return wrong + self.acknowledged + self.queued_again

    def counts(self) -> dict[str, int]:
        """Return the numbers by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, int)}

    def as_dict(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        return {**vars(self), "not_in_place": self.not_in_place}

    def count(self, verdict: Verdict, rows: int = 1) -> None:
        """Count *rows* of which nothing more is to be said."""
        setattr(self, verdict, getattr(self, verdict) + rows)

    def add_wrong(self, verdict: Verdict, table: str, key: Sequence[Any]) -> None:
        """Count a row that does not add up."""
        self.count(verdict)
        if len(self.examples) < NAMED:
            self.examples.append(f"{table} {key_text(tuple(key))}")

    def add_unjudged(self, table: str) -> None:
        """Note that differences in *table* say nothing yet, once."""
        if table not in self.unjudged:
            self.unjudged.append(table)

    def add_problem(self, problem: str) -> None:
        """Note what could not be compared, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def acknowledge(self) -> None:
        """Count what does not add up as known to an operator from now on."""
        for name in WRONG:
            self.acknowledged += getattr(self, name)
            setattr(self, name, 0)

    def discrepancies(self) -> list[str]:
        """Return what does not add up, one sentence each."""
        found = [
            f"{rows:,} shared rows {what}"
            for name, what in WRONG.items()
            if (rows := getattr(self, name))
        ]
        if found and self.examples:
            found[-1] += f", among them {', '.join(self.examples)}"
        return found + self.problems
