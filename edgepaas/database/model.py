# SPDX-License-Identifier: Apache-2.0
"""What an application's models are made of: a metadata, and what kind of table each one is.

An application makes its base in one line and names the kind of each table::

    Model = new_model_base()

    class Reading(Model, kind="facts"):
        __tablename__ = "readings"

Where a type checker is to follow, the base is written out::

    class Model(KindedModel, DeclarativeBase):
        metadata = new_metadata()

``facts`` are append-only and forwarded to the hub, ``shared`` tables are mutable and go
both ways, ``local`` ones never leave the box. The kind is kept in ``table.info["kind"]``.

Where boxes insert the same shared row, the hub merges it column by column, and the
arriving value stays; NULL and an empty JSON object overwrite nothing. A column may say
otherwise, ``mapped_column(…, info={"merge": …})``: ``least`` or ``greatest`` of the two,
``keep`` for the hub's, or ``add`` for a counter: its increments travel, not its value, so that
those of all boxes and of both databases add up. What boxes merely stamped is no content then:
two facts that differ only there are the same. For a fact's column that the box fills in when
nothing was given,
``info={"filled_from": "received_at"}`` says which column it equals in that case.
"""

from typing import Any, Literal, get_args

from sqlalchemy import BigInteger, Column, Integer, MetaData, SmallInteger, Table
from sqlalchemy.orm import DeclarativeBase

from edgepaas.database.exact_columns import inexact_reason, make_exact
from edgepaas.database.reserved_names import is_reserved
from edgepaas.database.types import Numeric

Kind = Literal["facts", "shared", "local"]
Merge = Literal["least", "greatest", "keep", "add"]

#: Every constraint has a name on both databases: a migration cannot drop what has none
#: (Alembic, "The Importance of Naming Constraints").
NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def new_metadata() -> MetaData:
    """Return an empty metadata that names every index and constraint alike on both databases."""
    return MetaData(naming_convention=NAMING_CONVENTION)


class KindedModel:
    """Mixed into a declarative base: every mapped table says which kind it is, once."""

    def __init_subclass__(cls, *, kind: Kind | None = None, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        table = cls.__dict__.get("__table__")
        if isinstance(table, Table):
            if kind is not None:
                table.info["kind"] = kind
            _check_table(table)


def new_model_base() -> Any:
    """Return a new declarative base with a metadata of its own, for one application's models."""

    class Model(KindedModel, DeclarativeBase):
        metadata = new_metadata()

    return Model


def forwarded_tables(metadata: MetaData | None) -> tuple[str, ...]:
    """Return the names of the forwarded tables of *metadata*: facts and shared ones."""
    tables = () if metadata is None else metadata.sorted_tables
    return tuple(table.name for table in tables if table.info.get("kind") in ("facts", "shared"))


def check_metadata(metadata: MetaData) -> None:
    """Raise TypeError for a table that could not be forwarded as its kind promises.

    Declared tables are checked when their class is made; this also finds Core tables
    without a kind, and foreign keys from facts to shared tables: on the hub a fact may
    arrive before the row that it points to.
    """
    for table in metadata.tables.values():
        _check_table(table)
        if table.info["kind"] != "facts":
            continue
        for key in table.foreign_keys:
            if key.column.table.info.get("kind") != "facts":
                raise TypeError(
                    f"{table.name}.{key.parent.name} is a foreign key from facts to "
                    f"{key.column.table.name}: facts arrive on the hub in an order of their own"
                )


def _check_table(table: Table) -> None:
    kind = table.info.get("kind")
    if kind not in get_args(Kind):
        raise TypeError(
            f"table {table.name} has no kind: write class …(Model, kind='facts'), 'shared' "
            f"or 'local' (for a Core table info={{'kind': …}})"
        )
    if is_reserved(table.name):
        raise TypeError(
            f"the table name {table.name} belongs to the platform: choose one that is not "
            "outbox, nodes or alembic_version and does not begin with outbox_, sync_, "
            "edgepaas_ or sqlite_"
        )
    if kind == "local":
        return
    if not table.primary_key.columns:
        raise TypeError(f"table {table.name} has no primary key, so its rows cannot be forwarded")
    serial = table.autoincrement_column
    if serial is not None and isinstance(serial.type, Integer | BigInteger | SmallInteger):
        raise TypeError(
            f"{table.name}.{serial.name} is a serial key, which two boxes would both give out: "
            "write mapped_column(Uuid, primary_key=True, default=uuid7), both from "
            "edgepaas.app.models"
        )
    for column in table.columns:
        make_exact(column)
    # All of them at once: one that is mended is not to lead to the next one.
    reasons = [(f"{table.name}.{one.name}", inexact_reason(one)) for one in table.columns]
    if inexact := [f"{name} cannot be forwarded exactly: {why}" for name, why in reasons if why]:
        raise TypeError("; ".join(inexact))
    for column in table.columns:
        _check_column(table, column)


def _check_column(table: Table, column: Column[Any]) -> None:
    name = f"{table.name}.{column.name}"
    rule = column.info.get("merge", "")
    if rule not in ("", *get_args(Merge)):
        raise TypeError(
            f"{name} has merge={rule!r}: it is one of {', '.join(get_args(Merge))}, or left out"
        )
    if rule and column.primary_key:
        raise TypeError(f"{name} has merge={rule!r}, but a key is never merged: leave it out")
    if rule == "add":
        if not isinstance(column.type, Integer | Numeric):
            raise TypeError(
                f"{name} has merge='add': a counter is an Integer, a BigInteger or a Numeric, "
                "whose sums are exact"
            )
        if table.info["kind"] == "facts":
            raise TypeError(
                f"{name} has merge='add', but facts never change: count in a shared table"
            )
    source = column.info.get("filled_from", "")
    if source and (source not in table.columns or source == column.name):
        raise TypeError(
            f"{name} has filled_from={source!r}: name another column of {table.name}, which it "
            "equals where the box filled it in"
        )
