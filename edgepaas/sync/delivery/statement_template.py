# SPDX-License-Identifier: Apache-2.0
"""A statement of the delivery: its SQL, and what each of its parameters is made of."""
# ruff: noqa: S608 - names come from the catalogue, quoted; every value is a parameter

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from edgepaas.sync.delivery.column_mapping import MappedColumn

Source = Literal["seq", "key", "new", "old", "node", "stream"]
#: What is learned from a template's rows (edgepaas.sync.delivery.verification).
Role = Literal["", "existing", "verify"]


@dataclass(frozen=True)
class Parameter:
    """The source of one parameter: an array with a value of each row, or one value."""

    source: Source
    position: int = 0
    is_bytea: bool = False


@dataclass(frozen=True)
class StatementTemplate:
    """A statement, and how its result counts.

    ``counts``: its only row is the number of conflicts that it recorded. ``records``: its
    command tag is. With neither, its command tag is the number of inserted rows. ``role``: its
    rows are the sequence numbers of rows that were there before, or that are not there as sent.
    """

    sql: str
    parameters: tuple[Parameter, ...]
    records: bool = False
    counts: bool = False
    role: Role = ""


class StatementBuilder:
    """Builds one statement and numbers its parameters."""

    def __init__(self) -> None:
        self.parameters: list[Parameter] = []

    def parameter(self, parameter: Parameter, kind: str) -> str:
        if parameter not in self.parameters:
            self.parameters.append(parameter)
        return f"${self.parameters.index(parameter) + 1}::{kind}"

    def rows(self, new: Iterable[MappedColumn] = (), old: Iterable[MappedColumn] = ()) -> str:
        """Return the query of the rows as sent: sequence numbers, keys, *new* and *old* values."""
        columns = [("s", "s", self.parameter(Parameter("seq"), "bigint[]"))]
        columns.append(("k", "k", self.parameter(Parameter("key"), "text[]")))
        sources: tuple[tuple[Source, str, Iterable[MappedColumn]], ...] = (
            ("new", "n", new),
            ("old", "o", old),
        )
        for source, letter, mapped_columns in sources:
            for mapped in mapped_columns:
                alias = f"{letter}{mapped.position}"
                columns.append(
                    (alias, mapped.column.from_parameter(alias), self.values(source, mapped))
                )
        selected = ", ".join(f"{value} AS {alias}" for alias, value, _ in columns)
        return (
            f"SELECT {selected} FROM unnest({', '.join(sent for _, _, sent in columns)}) "
            f"AS x({', '.join(alias for alias, _, _ in columns)})"
        )

    def values(self, source: Source, mapped: MappedColumn) -> str:
        """Return the parameter with the values of one column."""
        parameter = Parameter(source, mapped.position, mapped.column.is_bytes)
        return self.parameter(parameter, f"{mapped.column.parameter_type}[]")

    def origin(self) -> str:
        """Return the first two values of a row in the hub's own tables: node and stream."""
        node = self.parameter(Parameter("node"), "uuid")
        return f"{node}, {self.parameter(Parameter('stream'), 'uuid')}"

    def template(
        self, sql: str, *, records: bool = False, counts: bool = False, role: Role = ""
    ) -> StatementTemplate:
        return StatementTemplate(sql, tuple(self.parameters), records, counts, role)
