# SPDX-License-Identifier: Apache-2.0
"""What the schema stage did, for a person and for a program."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Action = Literal[
    "nothing",  # it was at head
    "created",  # a fresh file, or the first tables in an empty PostgreSQL
    "migrated",
    "adopted",  # it had tables and no version; it looked like a known revision
    "ahead",  # a newer build migrated it; it holds all that this build needs
    "unmigrated",  # a migration failed; the tables fit all the same, so it serves as it was
    "refused",  # this build cannot work on it; left as it is, and the box answers 503
    "replaced",  # damaged: set aside, a fresh file opened
    "repaired",
    "downgraded",  # taken back to an earlier revision, because an operator said so
    "left",  # RUN_MIGRATIONS=false
]


@dataclass(frozen=True)
class SchemaReport:
    """One run's result; *message* is a line for a person."""

    database: Literal["sqlite", "postgresql"]
    action: Action
    before: tuple[str, ...]
    after: tuple[str, ...]
    message: str
    #: Where the file as it was before is kept; None when nothing was changed.
    kept: Path | None = None
    #: What a repair found and did, in order.
    steps: tuple[str, ...] = field(default=())
    #: What cannot be promised, since this role may not change PostgreSQL's schema; and why.
    reservation: str = ""
    #: Why a revision of PostgreSQL waits.
    waiting: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return the report for ``--json``."""
        return {**asdict(self), "kept": str(self.kept) if self.kept else None}
