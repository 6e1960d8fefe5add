# SPDX-License-Identifier: Apache-2.0
"""Recording changes of devices and rules, in the transaction that makes them.

A record is a fact of its own and no column of the row: a row that is deleted has no place for
who deleted it, and of a column that two boxes set one would win and the other be lost.
"""

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table
from sqlalchemy.orm import Session

from edgepaas.app import Box
from edgepaas.app.api import Caller, current_caller
from edgepaas.app.facts import Row, insert_new
from edgepaas.app.models import utc_now, uuid7
from edgepaas.telemetry.models import CHANGES, DEVICES, RULES

_KINDS: Mapping[Table, str] = {DEVICES: "device", RULES: "rule"}
#: What the platform fills in is no change of anybody's.
_STAMPS = frozenset({"id", "created_at", "updated_at"})


def own_node(box: Box) -> uuid.UUID | None:
    """Return the id of *box* as rows say which box took them."""
    return uuid.UUID(box.node_id) if box.node_id else None


class ChangeRecord:
    """Records what one request changes; made in the request's thread, which knows its caller."""

    def __init__(self, caller: Caller, node: uuid.UUID | None) -> None:
        self._caller, self._node = caller, node

    @classmethod
    def of_request(cls, box: Box) -> "ChangeRecord":
        """Return that of the current request."""
        return cls(current_caller(), own_node(box))

    def created(self, session: Session, table: Table, row: Row) -> None:
        """Record that *row* was created."""
        self._store(session, table, row, "create", new=_fields(row))

    def changed(self, session: Session, table: Table, before: Row, after: Row) -> None:
        """Record which fields of a row are others than *before*; nothing where none is."""
        old, new = _fields(before), _fields(after)
        names = [name for name, value in new.items() if value != old[name]]
        if names:
            old, new = ({name: some[name] for name in names} for some in (old, new))
            self._store(session, table, after, "change", old=old, new=new)

    def deleted(self, session: Session, table: Table, row: Row) -> None:
        """Record that *row* was deleted, with what it held."""
        self._store(session, table, row, "delete", old=_fields(row))

    def _store(
        self,
        session: Session,
        table: Table,
        row: Row,
        action: str,
        *,
        old: dict[str, Any] | None = None,
        new: dict[str, Any] | None = None,
    ) -> None:
        record = {
            "id": uuid7(),
            "kind": _KINDS[table],
            "row_id": row["id"],
            "name": row["name"],
            "action": action,
            "old": old,
            "new": new,
            "changed_at": utc_now(),
            "changed_by": self._caller.name,
            "token_id": self._caller.id,
            "node": self._node,
        }
        insert_new(session, CHANGES, [record])


def _fields(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in _STAMPS}
