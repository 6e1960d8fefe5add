# SPDX-License-Identifier: Apache-2.0
"""Layouts: a forwarded table's columns as they were at one revision of the schema.

A row of the outbox holds values by position and names its layout, so that rows written
before a migration are still understood after it.
"""

import errno
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from edgepaas.database.reserved_names import LAYOUTS
from edgepaas.files import shapes
from edgepaas.files.records import RecordType
from edgepaas.outbox.revisions.changes import Names
from edgepaas.outbox.revisions.record import read_record

Merge = Literal["", "least", "greatest", "keep", "add"]
FORWARDED = ("facts", "shared")


def _of_version_1(old: dict[str, Any]) -> dict[str, Any]:
    """Fill in what the first releases did not write."""
    tables = {
        name: {
            "foreign": [],
            **table,
            "columns": [
                {
                    "primary_key": column["name"] in table["key"],
                    "merge": "",
                    "filled_from": "",
                    **column,
                }
                for column in table["columns"]
            ],
        }
        for name, table in old["tables"].items()
    }
    return {"fingerprint": "", "revision": [], **old, "tables": tables}


def _of_version_2(old: dict[str, Any]) -> dict[str, Any]:
    """Fill in what SQLite is to check (edgepaas.outbox.strictness), which was not written."""
    tables = {
        name: {
            "checks": [],
            "unique": [],
            **table,
            "columns": [{"values": [], **column} for column in table["columns"]],
        }
        for name, table in old["tables"].items()
    }
    return {**old, "tables": tables}


_COLUMN = {
    **dict.fromkeys(("name", "type", "storage", "merge", "filled_from"), shapes.text),
    **dict.fromkeys(("nullable", "primary_key"), shapes.flag),
    "values": shapes.list_of(shapes.text),
}
_TABLE = {
    "kind": shapes.text,
    "columns": shapes.list_of(shapes.object_of(_COLUMN)),
    "key": shapes.list_of(shapes.text),
    "foreign": shapes.list_of(shapes.text),
    "checks": shapes.list_of(shapes.object_of({"name": shapes.text, "text": shapes.text})),
    "unique": shapes.list_of(
        shapes.object_of(
            {
                "name": shapes.text,
                "columns": shapes.list_of(shapes.text),
                "nulls_distinct": shapes.flag,
            }
        )
    ),
}
#: ``run/tables.json``, which the schema stage writes (edgepaas.schema.table_contract).
TABLES_RECORD = RecordType(
    "tables",
    3,
    {
        "fingerprint": shapes.text,
        "revision": shapes.list_of(shapes.text),
        "tables": shapes.map_of(shapes.object_of(_TABLE)),
    },
    {1: _of_version_1, 2: _of_version_2},
)


@dataclass(frozen=True)
class Column:
    """One column; ``type`` in PostgreSQL's words, ``storage`` in SQLite's.

    ``merge`` says what stays where an insert meets a row that the hub has already: the
    lesser, the greater, the hub's value, the sum; empty: the arriving one. Such a column is no
    content: two facts that differ only there are the same fact. ``filled_from`` names a
    column that this one equals where the box filled it in; filled in on either side, it
    is no content either.
    """

    name: str
    type: str
    storage: str
    nullable: bool
    merge: Merge = ""
    filled_from: str = ""


@dataclass(frozen=True)
class Layout:
    """A table's columns, in order; ``id`` is 0 as long as no file knows it."""

    id: int
    table: str
    kind: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    revision: str

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names by position."""
        return tuple(column.name for column in self.columns)

    @property
    def key_positions(self) -> tuple[int, ...]:
        """Where the key's columns stand."""
        names = self.names
        return tuple(names.index(name) for name in self.key)

    def definition(self) -> str:
        """Return what ``outbox_layouts.definition`` keeps."""
        columns = []
        for column in self.columns:
            entry: dict[str, Any] = {
                "name": column.name,
                "type": column.type,
                "storage": column.storage,
                "nullable": column.nullable,
            }
            if column.merge:
                entry["merge"] = column.merge
            if column.filled_from:
                entry["filled_from"] = column.filled_from
            columns.append(entry)
        return json.dumps({"kind": self.kind, "columns": columns, "key": list(self.key)})


def layout_of(
    table: str, definition: Mapping[str, Any], *, identity: int = 0, revision: str = ""
) -> Layout:
    """Return the layout of *table* that *definition* describes: tables.json's, or a layout's own.

    Raises KeyError, TypeError where it describes none.
    """
    columns = tuple(
        Column(
            name=str(column["name"]),
            type=str(column["type"]),
            storage=str(column["storage"]),
            nullable=bool(column["nullable"]),
            merge=_merge(column.get("merge") or ""),
            filled_from=str(column.get("filled_from") or ""),
        )
        for column in definition["columns"]
    )
    key = tuple(definition["key"])
    return Layout(identity, table, str(definition["kind"]), columns, key, revision)


def read_document(path: Path) -> dict[str, Any]:
    """Return the fields of ``run/tables.json``, the file *path*.

    Raises OSError where there is none, ValueError where it is of another build or torn.
    """
    document = TABLES_RECORD.read(path)
    if document is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return document


def forwarded_layouts(document: Mapping[str, Any]) -> list[Layout]:
    """Return the layouts of the forwarded tables in *document* (tables.json), parents first."""
    revision = ",".join(document.get("revision", ()))
    return [
        layout_of(name, table, revision=revision)
        for name, table in document["tables"].items()
        if table["kind"] in FORWARDED
    ]


def stored_layouts(connection: sqlite3.Connection) -> dict[int, Layout]:
    """Return every layout that the file has rows of, by id."""
    rows = connection.execute(
        f"SELECT id, tbl, revision, definition FROM {LAYOUTS} ORDER BY id"  # noqa: S608
    )
    return {
        identity: layout_of(table, json.loads(definition), identity=identity, revision=revision)
        for identity, table, revision, definition in rows
    }


def registered(connection: sqlite3.Connection, layouts: Sequence[Layout]) -> Iterator[Layout]:
    """Give each of *layouts* with its id in the file; inside the caller's transaction.

    A table that a new revision leaves as it was keeps its layout. Where names moved in between,
    it gets another one, even with an equal definition: two columns may have swapped their names.
    """
    record = read_record(connection)
    for layout in layouts:
        definition = layout.definition()
        found = connection.execute(
            f"SELECT id, revision FROM {LAYOUTS} WHERE tbl = ? AND definition = ? "  # noqa: S608
            "ORDER BY id DESC LIMIT 1",
            (layout.table, definition),
        ).fetchone()
        names = Names.of(layout.table, layout.names)
        if found is None or not record.same_names(names, found[1], layout.revision):
            cursor = connection.execute(
                f"INSERT INTO {LAYOUTS} (tbl, revision, definition) VALUES (?, ?, ?)",  # noqa: S608
                (layout.table, layout.revision, definition),
            )
            found = (cast(int, cursor.lastrowid), layout.revision)
        yield Layout(found[0], layout.table, layout.kind, layout.columns, layout.key, found[1])


def _merge(word: str) -> Merge:
    # An older build reads what a newer one wrote: a rule it does not know is no rule.
    return cast(Merge, word) if word in get_args(Merge) else ""
