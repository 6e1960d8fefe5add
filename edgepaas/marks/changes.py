# SPDX-License-Identifier: Apache-2.0
"""One change of a row, as it travels from where it is known to the journal."""

from typing import Any, Literal, NamedTuple

#: INSERT, UPDATE, DELETE, as in the outbox.
Op = Literal["I", "U", "D"]


class Change(NamedTuple):
    """One change of a forwarded table, in the outbox's encoding.

    ``values`` are SQLite's by the positions of the table's layout (edgepaas.outbox.layout): None,
    int, float, str, bytes. Of an update they are the new ones followed by the old ones, of a
    delete the old ones.
    """

    table: str
    op: Op
    values: tuple[Any, ...]
