# SPDX-License-Identifier: Apache-2.0
"""What an operator knows to be not in place: acknowledged, and counted as such ever after."""

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from edgepaas.errors import EdgePaaSError
from edgepaas.files import shapes
from edgepaas.files.records import RecordType, same_fields

if TYPE_CHECKING:
    from edgepaas.files.paths import Paths

logger = logging.getLogger("edgepaas.sync")

#: Rows that can be acknowledged one by one; of more, the hub has lost a table's worth, and
#: what there is to be done is restoring it.
MOST = 10_000

#: ``state/acknowledged.json``: up to which count the rows that PostgreSQL lost are known.
LOST_RECORD = RecordType("acknowledged", 2, {"hub_lost": shapes.whole}, {1: same_fields})
#: ``state/audit-acknowledged.json``: the keys of such rows by table, as text.
RECORD = RecordType("audit-acknowledged", 1, {"rows": shapes.map_of(shapes.list_of(shapes.text))})


def acknowledged_lost(paths: "Paths") -> int:
    """Return how many of the rows that PostgreSQL lost were acknowledged by an operator."""
    try:
        found = LOST_RECORD.read_or_set_aside(paths.acknowledged)
    except OSError:
        found = None
    # Not acknowledged is the side to err on.
    return 0 if found is None else int(found["hub_lost"])


def acknowledge_lost(paths: "Paths", hub_lost: int) -> None:
    """Remember that an operator knows of *hub_lost* rows; raises OSError."""
    LOST_RECORD.write(paths.acknowledged, {"hub_lost": hub_lost})


class TooMany(EdgePaaSError):
    """More rows than can be acknowledged."""


def read_acknowledged(paths: "Paths") -> dict[str, frozenset[str]]:
    """Return by table the keys of the acknowledged rows; none where that cannot be read."""
    try:
        found = RECORD.read_or_set_aside(paths.audit_acknowledged)
    except OSError as error:
        # Not acknowledged is the side to err on.
        logger.warning("%s cannot be read: %s", paths.audit_acknowledged, error)
        found = None
    return (
        {} if found is None else {table: frozenset(keys) for table, keys in found["rows"].items()}
    )


def acknowledge_rows(paths: "Paths", rows: Mapping[str, Iterable[str]]) -> int:
    """Add *rows*, keys as text by table; returns how many are acknowledged in all.

    Raises TooMany, OSError; nothing is changed then.
    """
    before = read_acknowledged(paths)
    after = {
        table: sorted(before.get(table, frozenset()) | set(rows.get(table, ())))
        for table in sorted({*before, *rows})
    }
    count = sum(len(keys) for keys in after.values())
    if count > MOST:
        raise TooMany(
            f"{count:,} rows are not in place, and {MOST:,} can be acknowledged: restore "
            "PostgreSQL from a backup that has them; 'edgepaas audit --deep' names some"
        )
    RECORD.write(paths.audit_acknowledged, {"rows": after})
    return count
