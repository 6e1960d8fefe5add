# SPDX-License-Identifier: Apache-2.0
"""Counting, in PostgreSQL itself, what became of everything that a drill's devices sent."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from edgepaas.drill.load import METRIC, Device, Filling
from edgepaas.pgdriver.pg8000_adapter import simple_query

_COUNT = "SELECT count(*), count(DISTINCT value) FROM readings WHERE device = {0} AND metric = {1}"
_MISSING = (
    "SELECT count(*) FROM generate_series(1, {2}) AS wanted(n) WHERE NOT EXISTS "
    "(SELECT 1 FROM readings WHERE device = {0} AND metric = {1} AND value = wanted.n)"
)
_NEVER_SENT = (
    "SELECT count(*) FROM readings WHERE device = {0} AND metric = {1} "
    "AND (value > {2} OR value < 1 OR value <> floor(value))"
)
# Transactions get their ids in the order in which they begin to write (PostgreSQL manual,
# "Transactions and Identifiers"), and one device waits for each answer: a later number in an
# earlier transaction has overtaken. A drill is too short for the ids to wrap round.
_OVERTAKEN = (
    "SELECT count(*) FROM (SELECT xmin::text::bigint AS this, lag(xmin::text::bigint) OVER "
    "(ORDER BY value) AS before FROM readings WHERE device = {0} AND metric = {1}) AS pairs "
    "WHERE this < before"
)
_DESCRIBED = "SELECT description FROM devices WHERE name = {0}"


@dataclass(frozen=True)
class Tally:
    """What PostgreSQL holds of what was sent; all but the first two have to be zero."""

    acknowledged: int = 0
    in_postgres: int = 0
    #: Acknowledged, and not there.
    lost: int = 0
    #: There more than once.
    doubled: int = 0
    #: There, and never sent.
    invented: int = 0
    #: Readings that overtook an earlier one, and shared rows that ended with an older value.
    out_of_order: int = 0

    @property
    def sound(self) -> bool:
        """Whether every row is there once, in order, and no other."""
        return not (self.lost or self.doubled or self.invented or self.out_of_order)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.acknowledged + other.acknowledged,
            self.in_postgres + other.in_postgres,
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.invented + other.invented,
            self.out_of_order + other.out_of_order,
        )


def tally(connection: Any, devices: Iterable[Device], filling: Filling) -> Tally:
    """Count over *connection*, a session of PostgreSQL in the drill's own place."""
    total = Tally()
    for device in devices:
        found = _tally_of(connection, device.name, device.acknowledged, device.sent)
        described = _ask(connection, _DESCRIBED, device.name)
        last = int(described[0][0] or 0) if described else 0
        late = Tally(out_of_order=int(last < device.described))
        total = total + found + late
    return total + _tally_of(connection, filling.name, filling.acknowledged, filling.sent)


def _tally_of(connection: Any, name: str, acknowledged: int, sent: int) -> Tally:
    ((rows, different),) = _ask(connection, _COUNT, name, METRIC)
    ((lost,),) = _ask(connection, _MISSING, name, METRIC, acknowledged)
    ((invented,),) = _ask(connection, _NEVER_SENT, name, METRIC, sent)
    ((overtaken,),) = _ask(connection, _OVERTAKEN, name, METRIC)
    return Tally(
        acknowledged=acknowledged,
        in_postgres=int(rows),
        lost=int(lost),
        doubled=int(rows) - int(different),
        invented=int(invented),
        out_of_order=int(overtaken),
    )


def _ask(connection: Any, statement: str, *values: str | int) -> Any:
    # The values are this package's own device names and numbers.
    quoted = [str(value) if isinstance(value, int) else f"'{value}'" for value in values]
    return simple_query(connection, statement.format(*quoted))
