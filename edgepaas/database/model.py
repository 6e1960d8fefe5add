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
"""

from typing import Any, Literal, get_args

from sqlalchemy import BigInteger, Integer, MetaData, SmallInteger, Table
from sqlalchemy.orm import DeclarativeBase

Kind = Literal["facts", "shared", "local"]

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
    if kind == "local":
        return
    if not table.primary_key.columns:
        raise TypeError(f"table {table.name} has no primary key, so its rows cannot be forwarded")
    serial = table.autoincrement_column
    if serial is not None and isinstance(serial.type, Integer | BigInteger | SmallInteger):
        raise TypeError(
            f"{table.name}.{serial.name} is a serial key, which two boxes would both give out: "
            "write mapped_column(Uuid, primary_key=True, default=uuid7), both from "
            "edgepaas.database"
        )
