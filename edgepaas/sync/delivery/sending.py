# SPDX-License-Identifier: Apache-2.0
"""Binding the values of changes to statement templates, in slices of a bounded size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgepaas.outbox.reading import Change, bounded_key
from edgepaas.pgdriver.pipeline import Statement
from edgepaas.sync.delivery import values
from edgepaas.sync.delivery.statement_template import Parameter, StatementTemplate

#: Bytes of parameters of one statement. The server's time limits run while it receives them:
#: so many bytes within 30 s take a link of 70 kbit/s.
MAX_PARAMETER_BYTES = 256 * 1024


@dataclass(frozen=True)
class Origin:
    """The box and the stream that the changes come from."""

    node_id: str
    stream_id: str


def row_key(change: Change) -> str:
    """Return the key of the row of *change* for the hub's own tables; a long one as its hash."""
    return bounded_key(change.key_text)


def bind(
    templates: Sequence[StatementTemplate], changes: Sequence[Change], origin: Origin
) -> Iterator[tuple[list[Statement], Sequence[Change]]]:
    """Yield the statements of *templates*, in order, for slices of *changes* of a bounded size.

    Raises UnsendableValue where a value cannot be sent at all.
    """
    arrays: dict[Parameter, Any] = {}
    statements: list[Statement] = [
        (
            template.sql,
            [_parameter(parameter, changes, origin, arrays) for parameter in template.parameters],
        )
        for template in templates
    ]
    size = sum(len(p) for _, parameters in statements for p in parameters)
    if size <= MAX_PARAMETER_BYTES * len(templates) or len(changes) == 1:
        yield statements, changes
        return
    parts = min(len(changes), -(-size // (MAX_PARAMETER_BYTES * len(templates))))
    step = -(-len(changes) // parts)
    statements.clear()
    arrays.clear()
    for start in range(0, len(changes), step):
        yield from bind(templates, changes[start : start + step], origin)


def unsendable_reason(templates: Sequence[StatementTemplate], change: Change) -> str:
    """Return why *change* can never be sent by one of *templates*, "" if it can."""
    for parameter in (one for template in templates for one in template.parameters):
        row = change.new if parameter.source == "new" else change.old
        if parameter.source not in ("new", "old") or row is None:
            continue
        value = row[parameter.position]
        try:
            values.array((value,), is_bytea=parameter.is_bytea)
        except values.UnsendableValue as reason:
            return f"{change.layout.names[parameter.position]}: {reason}"
    return ""


def _parameter(
    parameter: Parameter, changes: Sequence[Change], origin: Origin, arrays: dict[Parameter, Any]
) -> Any:
    if parameter.source == "node":
        return origin.node_id
    if parameter.source == "stream":
        return origin.stream_id
    if parameter not in arrays:
        arrays[parameter] = values.array(_column(parameter, changes), is_bytea=parameter.is_bytea)
    return arrays[parameter]


def _column(parameter: Parameter, changes: Sequence[Change]) -> list[Any]:
    if parameter.source == "seq":
        return [change.seq for change in changes]
    if parameter.source == "key":
        return [row_key(change) for change in changes]
    position = parameter.position
    if parameter.source == "new":
        return [change.new[position] for change in changes if change.new is not None]
    return [change.old[position] for change in changes if change.old is not None]
