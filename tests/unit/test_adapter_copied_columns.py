# SPDX-License-Identifier: Apache-2.0
"""What SQLAlchemy and Alembic's batch mode show of the columns that a statement copies."""

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    Table,
    Text,
    cast,
    create_engine,
    event,
    insert,
    literal_column,
    select,
    type_coerce,
)
from sqlalchemy.sql.elements import ClauseElement

from edgepaas.schema.renames.copied_columns import copied_columns

OLD = Table("goods", MetaData(), Column("id", Integer), Column("a", Text), Column("n", Integer))
NEW = Table("items", MetaData(), Column("id", Integer), Column("b", Text), Column("m", Integer))


def test_plain_cast_and_labelled_columns_are_pairs_and_nothing_else_is() -> None:
    source = select(OLD.c.id, cast(OLD.c.n, Text).label("x"), literal_column("7"))
    statement = insert(NEW).from_select(["id", "b", "m"], source)
    assert copied_columns(statement) == ("goods", "items", [("id", "id"), ("n", "b")])
    coerced = insert(NEW).from_select(["m"], select(type_coerce(OLD.c.a, Integer)))
    assert copied_columns(coerced) == ("goods", "items", [("a", "m")])


def test_other_statements_copy_nothing() -> None:
    assert copied_columns(insert(NEW).values(id=1)) is None
    assert copied_columns(select(OLD.c.id)) is None
    assert copied_columns("INSERT INTO items SELECT * FROM goods") is None


def test_batch_mode_shows_old_and_new_names_of_the_table_that_it_makes_anew() -> None:
    engine = create_engine("sqlite://")
    seen: list[object] = []

    def before_execute(_connection: object, element: ClauseElement, *_: object) -> None:
        if (found := copied_columns(element)) is not None:
            seen.append(found)

    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE goods (id INTEGER PRIMARY KEY, a TEXT, c TEXT)")
        event.listen(connection, "before_execute", before_execute)
        operations = Operations(MigrationContext.configure(connection))
        with operations.batch_alter_table("goods", recreate="always") as batch:
            batch.alter_column("a", new_column_name="b", type_=Integer())
            batch.drop_column("c")
            batch.add_column(Column("d", Text))
    engine.dispose()
    assert seen == [("goods", "_alembic_tmp_goods", [("id", "id"), ("a", "b")])]
