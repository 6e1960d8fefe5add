# SPDX-License-Identifier: Apache-2.0
"""A statement and what its parameters are made of."""
# ruff: noqa: S608 - names come from the catalogue, quoted; every value is a parameter

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from edgepaas.sync.delivery.shape import Slot

Source = Literal["seq", "key", "new", "old", "node", "stream"]


@dataclass(frozen=True)
class Want:
    """What one parameter is made of: of all rows a value each, or one for the statement."""

    source: Source
    position: int = 0
    of_bytes: bool = False


@dataclass(frozen=True)
class Plan:
    """A statement; ``counts`` tells whether its one row holds the conflicts it recorded.

    Without, its command tag counts them where ``records``, else the rows it inserted.
    """

    sql: str
    wants: tuple[Want, ...]
    records: bool = False
    counts: bool = False


class Writer:
    """Numbers the parameters of one statement."""

    def __init__(self) -> None:
        self.wants: list[Want] = []

    def parameter(self, want: Want, kind: str) -> str:
        if want not in self.wants:
            self.wants.append(want)
        return f"${self.wants.index(want) + 1}::{kind}"

    def rows(self, new: Iterable[Slot] = (), old: Iterable[Slot] = ()) -> str:
        """Return the query of the rows as sent: numbers, keys, *new* and *old* values."""
        columns = [("s", "s", self.parameter(Want("seq"), "bigint[]"))]
        columns.append(("k", "k", self.parameter(Want("key"), "text[]")))
        sources: tuple[tuple[Source, str, Iterable[Slot]], ...] = (
            ("new", "n", new),
            ("old", "o", old),
        )
        for source, letter, slots in sources:
            for slot in slots:
                alias = f"{letter}{slot.position}"
                columns.append((alias, slot.column.value(alias), self.values(source, slot)))
        selected = ", ".join(f"{value} AS {alias}" for alias, value, _ in columns)
        return (
            f"SELECT {selected} FROM unnest({', '.join(sent for _, _, sent in columns)}) "
            f"AS x({', '.join(alias for alias, _, _ in columns)})"
        )

    def values(self, source: Source, slot: Slot) -> str:
        """Return the parameter that holds the values of one column."""
        want = Want(source, slot.position, slot.column.is_bytes)
        return self.parameter(want, f"{slot.column.payload}[]")

    def origin(self) -> str:
        """Return the first columns of a row in the hub's own tables: node and stream."""
        node = self.parameter(Want("node"), "uuid")
        return f"{node}, {self.parameter(Want('stream'), 'uuid')}"

    def plan(self, sql: str, *, records: bool = False, counts: bool = False) -> Plan:
        return Plan(sql, tuple(self.wants), records, counts)
