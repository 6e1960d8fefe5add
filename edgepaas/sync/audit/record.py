# SPDX-License-Identifier: Apache-2.0
"""``state/audit.json``: what the audit that runs by itself found, and where it goes on."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgepaas.files import shapes
from edgepaas.files.records import RecordType
from edgepaas.sync.losses.acknowledge import read_acknowledged

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths

logger = logging.getLogger("edgepaas.sync")

#: Rows that are listed one by one, to be looked at again; more are only counted.
MOST_OPEN = 1000

_OPEN = {
    "table": shapes.text,
    "key": shapes.text,
    # The parts of the key, empty where JSON has no exact form for one.
    "parts": shapes.list_of(shapes.anything),
    "kind": shapes.text,
}
RECORD = RecordType(
    "audit",
    1,
    {
        "at": shapes.text,
        "why": shapes.text,
        "stream_id": shapes.text,
        "counters": shapes.map_of(shapes.whole),
        "counts": shapes.map_of(shapes.whole),
        "queued_again": shapes.whole,
        "open": shapes.list_of(shapes.object_of(_OPEN)),
        "beyond": shapes.whole,
        "problems": shapes.list_of(shapes.text),
        "cursors": shapes.map_of(shapes.list_of(shapes.anything)),
    },
)


@dataclass
class AuditRecord:
    """The last pass: when it ended (RFC 3339), why it ran, and what is open since it or before.

    ``counters`` are the ledger's at that time, ``counts`` the numbers of the pass by name,
    ``queued_again`` how many rows were ever sent again because of one. ``open`` are rows that
    nothing explains, ``beyond`` how many more there are. ``cursors``: by table the parts of the
    key at which the next pass goes on.
    """

    at: str = ""
    why: str = ""
    stream_id: str = ""
    counters: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    queued_again: int = 0
    open: list[dict[str, Any]] = field(default_factory=list)
    beyond: int = 0
    problems: list[str] = field(default_factory=list)
    cursors: dict[str, list[Any]] = field(default_factory=dict)


def read_audit(paths: "Paths") -> AuditRecord | None:
    """Return what the last pass left; None: there was none, or it cannot be read."""
    try:
        found = RECORD.read_or_set_aside(paths.audit)
    except OSError as error:
        logger.warning("%s cannot be read: %s", paths.audit, error)
        return None
    return None if found is None else AuditRecord(**found)


def write_audit(paths: "Paths", record: AuditRecord) -> None:
    """Keep *record*, durably; raises OSError."""
    RECORD.write(paths.audit, vars(record))


def open_discrepancies(
    record: AuditRecord, acknowledged: Mapping[str, frozenset[str]]
) -> list[str]:
    """Return what the last pass left open and no operator knows of, one sentence each."""
    found = [
        one for one in record.open if one["key"] not in acknowledged.get(one["table"], frozenset())
    ]
    rows = len(found) + record.beyond
    said = list(record.problems)
    if rows:
        named = ", ".join(f"{one['table']} {one['key']}" for one in found[:5])
        said.insert(
            0,
            f"{rows:,} rows of this box are not in PostgreSQL as they were written"
            + (f", among them {named}" if named else ""),
        )
    return said


def still_open(paths: "Paths") -> list[str]:
    """Return what the audit that runs by itself has left open; nothing where it never ran."""
    record = read_audit(paths)
    return [] if record is None else open_discrepancies(record, read_acknowledged(paths))
