# SPDX-License-Identifier: Apache-2.0
"""What shows that a shared table of the hub changed, or is another one, in one round trip."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from edgepaas.outbox.tables import quoted
from edgepaas.sync.delivery.column_mapping import literal
from edgepaas.sync.hub import history

if TYPE_CHECKING:
    from edgepaas.sync.hub.connection import Hub
    from edgepaas.sync.mirror.difference import MirroredTable


class Fingerprint(NamedTuple):
    """The number of rows, the bytes of the largest one as text, and what changes with any row."""

    rows: int
    largest: int
    content: str


class Fingerprints(NamedTuple):
    """Those of some tables, in their order; *identities*: PostgreSQL's oid of each, by name.

    The box's names, and that of the table of history marks where the hub has it.
    """

    tables: list[Fingerprint]
    identities: dict[str, int]


def read_fingerprints(hub: "Hub", tables: Sequence["MirroredTable"]) -> Fingerprints:
    """Return the fingerprints of *tables*; raises HubError."""
    if not tables:
        return Fingerprints([], {})
    parts = [f"to_regclass({literal(history.TABLE)})::oid"]
    for table in tables:
        columns = ", ".join(quoted(name) for name in table.hub_names)
        parts.append(
            "(SELECT concat_ws('/', count(*), coalesce(max(octet_length(t::text)), 0), "  # noqa: S608
            f"to_regclass({literal(quoted(table.hub_name))})::oid, "
            f"coalesce(sum(hashtextextended(t::text, 0)), 0)) "
            f"FROM (SELECT {columns} FROM {quoted(table.hub_name)}) AS t)"
        )
    histories, *found = hub.query(f"SELECT {', '.join(parts)}")[0]
    identities = {} if histories is None else {history.TABLE: int(histories)}
    fingerprints = []
    for table, one in zip(tables, found, strict=True):
        count, largest, identity, _ = one.split("/")
        fingerprints.append(Fingerprint(int(count), int(largest), one))
        identities[table.name] = int(identity)
    return Fingerprints(fingerprints, identities)
