# SPDX-License-Identifier: Apache-2.0
"""``state/refused-tables.json``: the tables for whose sake PostgreSQL was given up.

The service writes it before it ends for a new decision. While it lists a table, the drainer
rehearses a write to that table before it hands back, since rows that no client has sent
meanwhile would prove nothing; and it goes on holding PostgreSQL until one is accepted.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgepaas.files import shapes
from edgepaas.files.atomic import remove_durably
from edgepaas.files.records import RecordType
from edgepaas.outcomes.causes import Refusal

RECORD = RecordType(
    "refused-tables",
    2,  # no file without a name was ever written
    {
        "tables": shapes.list_of(
            shapes.object_of({"table": shapes.text, "cause": shapes.text, "text": shapes.text})
        )
    },
)


@dataclass(frozen=True)
class RefusedTable:
    """A table, why PostgreSQL refused writes to it, and the line that says both."""

    table: str
    cause: str
    text: str

    @classmethod
    def of(cls, refusal: Refusal) -> "RefusedTable":
        """Return what is kept of *refusal*."""
        return cls(refusal.table, refusal.cause.value, refusal.text)


def read_refused(path: Path) -> Sequence[RefusedTable]:
    """Return the tables that *path* lists; none where it is not there or cannot be read."""
    try:
        found: Any = RECORD.read_or_set_aside(path)
    except OSError:
        return ()
    return () if found is None else tuple(RefusedTable(**one) for one in found["tables"])


def add_refused(path: Path, refusals: Iterable[Refusal]) -> None:
    """List the tables of *refusals* as well, durably; raises OSError."""
    new = [RefusedTable.of(refusal) for refusal in refusals]
    names = {one.table for one in new}
    kept = [one for one in read_refused(path) if one.table not in names]
    RECORD.write(path, {"tables": [asdict(one) for one in (*kept, *new)]})


def remove_refused(path: Path, tables: Collection[str]) -> None:
    """List *tables* no longer; raises OSError."""
    present = read_refused(path)
    left = [one for one in present if one.table not in tables]
    if not left:
        remove_durably(path)
    elif len(left) < len(present):
        RECORD.write(path, {"tables": [asdict(one) for one in left]})
