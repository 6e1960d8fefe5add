# SPDX-License-Identifier: Apache-2.0
"""From a plan and changes to statements of a bounded size."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgepaas.outbox.reading import Change
from edgepaas.pgdriver.pipeline import Statement
from edgepaas.sync.delivery import values
from edgepaas.sync.delivery.statement_template import Plan, Want

#: Bytes of parameters that are sent at a time. The server's timers run while it waits for
#: the end of a statement: 30 s for so many bytes are 70 kbit/s.
LARGEST = 256 * 1024


@dataclass(frozen=True)
class Origin:
    """Whose changes they are."""

    node_id: str
    stream_id: str


#: Bytes of a key that the hub's own tables keep; their indexes take less than 2704.
_LONGEST_KEY = 1000


def row_key(change: Change) -> str:
    """Return the key of *change*'s row as the hub's own tables have it; a long one as its hash."""
    text = change.key_text
    if len(text) <= _LONGEST_KEY // 4:
        return text
    data = text.encode("utf-8")
    return text if len(data) <= _LONGEST_KEY else f"sha256:{hashlib.sha256(data).hexdigest()}"


def bound(
    plans: Sequence[Plan], changes: Sequence[Change], origin: Origin
) -> Iterator[tuple[list[Statement], Sequence[Change]]]:
    """Yield the statements of *plans*, in order, for slices of *changes* that are not too large.

    Raises UnfitValue where a value cannot be sent at all.
    """
    arrays: dict[Want, Any] = {}
    statements: list[Statement] = [
        (plan.sql, [_parameter(want, changes, origin, arrays) for want in plan.wants])
        for plan in plans
    ]
    size = sum(len(p) for _, parameters in statements for p in parameters)
    if size <= LARGEST * len(plans) or len(changes) == 1:
        yield statements, changes
        return
    parts = min(len(changes), -(-size // (LARGEST * len(plans))))
    step = -(-len(changes) // parts)
    statements.clear()
    arrays.clear()
    for start in range(0, len(changes), step):
        yield from bound(plans, changes[start : start + step], origin)


def unfit(plan: Plan, change: Change) -> str:
    """Return why *change* can never be sent as *plan* wants it; empty: it can."""
    for want in plan.wants:
        row = change.new if want.source == "new" else change.old
        if want.source not in ("new", "old") or row is None:
            continue
        value = row[want.position]
        try:
            values.array((value,), of_bytes=want.of_bytes)
        except values.UnfitValue as reason:
            return f"{change.layout.names[want.position]}: {reason}"
    return ""


def _parameter(
    want: Want, changes: Sequence[Change], origin: Origin, arrays: dict[Want, Any]
) -> Any:
    if want.source == "node":
        return origin.node_id
    if want.source == "stream":
        return origin.stream_id
    if want not in arrays:
        arrays[want] = values.array(_column(want, changes), of_bytes=want.of_bytes)
    return arrays[want]


def _column(want: Want, changes: Sequence[Change]) -> list[Any]:
    if want.source == "seq":
        return [change.seq for change in changes]
    if want.source == "key":
        return [row_key(change) for change in changes]
    position = want.position
    if want.source == "new":
        return [change.new[position] for change in changes if change.new is not None]
    return [change.old[position] for change in changes if change.old is not None]
