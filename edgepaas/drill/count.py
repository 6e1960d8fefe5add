# SPDX-License-Identifier: Apache-2.0
"""Counting in PostgreSQL what it has of the readings that the devices of a drill sent."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edgepaas.drill.load import BulkDevice, Device
from edgepaas.pgdriver.pg8000_adapter import simple_query

_COUNT = "SELECT count(*), count(DISTINCT value) FROM drill_readings WHERE device = {0}"
_MISSING = (
    "SELECT count(*) FROM generate_series(1, {1}) AS wanted(n) WHERE NOT EXISTS "
    "(SELECT 1 FROM drill_readings WHERE device = {0} AND value = wanted.n)"
)
_NEVER_SENT = (
    "SELECT count(*) FROM drill_readings WHERE device = {0} AND (value > {1} OR value < 1)"
)
# Transactions get their ids in the order of their first write (PostgreSQL manual, "Transactions
# and Identifiers"), and a device waits for each answer: a later number in an earlier transaction
# was delivered out of order. A drill is too short for the ids to wrap around.
_OVERTAKEN = (
    "SELECT count(*) FROM (SELECT xmin::text::bigint AS this, lag(xmin::text::bigint) OVER "
    "(ORDER BY value) AS before FROM drill_readings WHERE device = {0}) AS pairs "
    "WHERE this < before"
)
_DESCRIBED = "SELECT description FROM drill_devices WHERE name = {0}"


@dataclass(frozen=True)
class RowCounts:
    """How many readings PostgreSQL has; all but the first two counts have to be zero."""

    acknowledged: int = 0
    in_postgres: int = 0
    #: Acknowledged, and missing.
    lost: int = 0
    #: Stored more than once.
    doubled: int = 0
    #: Stored, and never sent.
    invented: int = 0
    #: Readings stored before an earlier one, and shared rows whose last value is an older one.
    out_of_order: int = 0

    @property
    def complete(self) -> bool:
        """Whether every row is stored once, in order, and no other row is."""
        return not (self.lost or self.doubled or self.invented or self.out_of_order)

    def __add__(self, other: "RowCounts") -> "RowCounts":
        return RowCounts(
            self.acknowledged + other.acknowledged,
            self.in_postgres + other.in_postgres,
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.invented + other.invented,
            self.out_of_order + other.out_of_order,
        )


def count_rows(connection: Any, devices: Iterable[Device], bulk: BulkDevice) -> RowCounts:
    """Count the rows of *devices* and *bulk* through *connection* to the scratch database."""
    total = RowCounts()
    for device in devices:
        found = _count_device(connection, device.name, device.acknowledged, device.sent)
        described = _ask(connection, _DESCRIBED, device.name)
        last = int(described[0][0] or 0) if described else 0
        late = RowCounts(out_of_order=int(last < device.described))
        total = total + found + late
    return total + _count_device(connection, bulk.name, bulk.acknowledged, bulk.sent)


def _count_device(connection: Any, name: str, acknowledged: int, sent: int) -> RowCounts:
    ((rows, different),) = _ask(connection, _COUNT, name)
    ((lost,),) = _ask(connection, _MISSING, name, acknowledged)
    ((invented,),) = _ask(connection, _NEVER_SENT, name, sent)
    ((overtaken,),) = _ask(connection, _OVERTAKEN, name)
    return RowCounts(
        acknowledged=acknowledged,
        in_postgres=int(rows),
        lost=int(lost),
        doubled=int(rows) - int(different),
        invented=int(invented),
        out_of_order=int(overtaken),
    )


def _ask(connection: Any, statement: str, *values: str | int) -> Any:
    # The values are device names of this package and numbers: nothing needs escaping.
    quoted = [str(value) if isinstance(value, int) else f"'{value}'" for value in values]
    return simple_query(connection, statement.format(*quoted))
