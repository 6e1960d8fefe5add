# SPDX-License-Identifier: Apache-2.0
"""Capture: every write path leaves its rows in the outbox, to the bit, and nothing else does."""

import contextlib
import math
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, delete, insert, select, text, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from edgepaas.database.ids import uuid7
from edgepaas.database.reserved_names import REVISIONS
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.outbox import capture, tables
from edgepaas.outbox.ledger import pending
from edgepaas.outbox.stream import read_stream
from tests.support.outbox import (
    NODE,
    Child,
    Fact,
    Note,
    Odd,
    Parent,
    captured_file,
    changes,
    contents,
    create_file,
    document,
    exact,
    ops,
    replay,
)

A, B, C = uuid7(), uuid7(), uuid7()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "edgepaas.db"


@pytest.fixture
def file(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a file with capture."""
    with captured_file(path) as connection:
        yield connection


@pytest.fixture
def engine(path: Path) -> Iterator[Engine]:
    """The same file through SQLAlchemy."""
    made = create_engine("sqlite://", creator=lambda: open_sqlite(path), poolclass=NullPool)
    yield made
    made.dispose()


def parent(identity: object = A, name: str = "a", **values: Any) -> dict[str, Any]:
    return {"id": identity, "name": name, "note": None, "labels": {}, **values}


def rolled_back_savepoint(session: Session) -> None:
    """What was undone leaves neither a row nor a hole in the numbers."""
    savepoint = session.begin_nested()
    session.execute(insert(Fact), [{"count": n} for n in range(10)])
    savepoint.rollback()
    session.execute(insert(Fact), [{"count": 11}])


# What each path is to leave behind, after parents a and b and a child of a.
Work = Callable[[Session], object]
I, U, D = "insert", "update", "delete"  # noqa: E741
P, K = "parents", "children"
WRITE_PATHS: dict[str, tuple[Work, list[tuple[str, str]]]] = {
    "add": (lambda s: s.add(Parent(name="x")), [(I, P)]),
    "add_all": (lambda s: s.add_all([Parent(name="x"), Parent(name="y")]), [(I, P)] * 2),
    "attribute": (lambda s: setattr(s.get_one(Parent, A), "note", "n"), [(U, P)]),
    "delete object": (lambda s: s.delete(s.get_one(Parent, B)), [(D, P)]),
    "merge": (lambda s: s.merge(Parent(id=A, name="other")), [(U, P)]),
    "bulk_save_objects": (lambda s: s.bulk_save_objects([Parent(name="x")]), [(I, P)]),
    "bulk_insert_mappings": (
        lambda s: s.bulk_insert_mappings(Parent, [parent(C, "x")]),
        [(I, P)],
    ),
    "bulk_update_mappings": (
        lambda s: s.bulk_update_mappings(Parent, [{"id": A, "note": "n"}]),
        [(U, P)],
    ),
    "insert of a list": (
        lambda s: s.execute(insert(Parent), [parent(uuid7(), str(n)) for n in range(700)]),
        [(I, P)] * 700,
    ),
    "insert with values": (lambda s: s.execute(insert(Parent).values(parent(C, "x"))), [(I, P)]),
    "insert with returning": (
        lambda s: s.scalars(insert(Parent).values(parent(C, "x")).returning(Parent.id)).one(),
        [(I, P)],
    ),
    "insert from select": (
        lambda s: s.execute(
            insert(Child).from_select(["id", "parent_id"], select(Parent.id, Parent.id))
        ),
        [(I, K)] * 2,
    ),
    "update of all": (lambda s: s.execute(update(Parent).values(note="n")), [(U, P)] * 2),
    "update where": (
        lambda s: s.execute(update(Parent).where(Parent.name == "a").values(note="n")),
        [(U, P)],
    ),
    "update of the key": (
        lambda s: s.execute(update(Parent).where(Parent.id == B).values(id=C)),
        [(D, P), (I, P)],
    ),
    "unqualified delete": (lambda s: s.execute(delete(Child)), [(D, K)]),
    "delete that cascades": (
        lambda s: s.execute(delete(Parent).where(Parent.id == A)),
        [(D, K), (D, P)],
    ),
    "on conflict do nothing": (
        lambda s: s.execute(
            upsert(Parent).values(parent(C, "a")).on_conflict_do_nothing(index_elements=["name"])
        ),
        [],
    ),
    "on conflict do update": (
        lambda s: s.execute(
            upsert(Parent)
            .values(parent(A, "a", note="n"))
            .on_conflict_do_update(index_elements=["id"], set_={"note": "n"})
        ),
        [(U, P)],
    ),
    "insert or replace": (
        lambda s: s.execute(insert(Parent).prefix_with("OR REPLACE").values(parent(B, "b"))),
        [(D, P), (I, P)],
    ),
    "replace that hits another row": (
        lambda s: s.execute(insert(Parent).prefix_with("OR REPLACE").values(parent(C, "b"))),
        [(D, P), (I, P)],
    ),
    "insert or ignore": (
        lambda s: s.execute(insert(Parent).prefix_with("OR IGNORE").values(parent(C, "a"))),
        [],
    ),
    "text": (lambda s: s.execute(text("UPDATE parents SET note = 'n'")), [(U, P)] * 2),
    "text with many parameters": (
        lambda s: s.execute(
            text("INSERT INTO facts (id, count) VALUES (:id, :n)"),
            [{"id": str(uuid7()), "n": n} for n in range(3)],
        ),
        [(I, "facts")] * 3,
    ),
    "exec_driver_sql": (
        lambda s: s.connection().exec_driver_sql("DELETE FROM children"),
        [(D, K)],
    ),
    "executemany": (
        lambda s: s.connection().exec_driver_sql(
            "INSERT INTO facts (id, count) VALUES (?, ?)", [(str(uuid7()), n) for n in range(3)]
        ),
        [(I, "facts")] * 3,
    ),
    "update that changes nothing": (
        lambda s: s.execute(update(Parent).where(Parent.id == A).values(name="a")),
        [(U, P)],
    ),
    "a local table": (lambda s: s.add(Note(text="x")), []),
    "savepoint that was rolled back": (rolled_back_savepoint, [(I, "facts")]),
    "table without rowid": (
        lambda s: (
            s.execute(insert(Odd), [{"first": "x", "second": 1}, {"first": "x", "second": 2}])
            and s.execute(update(Odd).where(Odd.second == 1).values(value="v"))
            and s.execute(delete(Odd))
        ),
        [(I, 'od"d table')] * 2 + [(U, 'od"d table')] + [(D, 'od"d table')] * 2,
    ),
}


@pytest.mark.parametrize("name", WRITE_PATHS)
def test_a_write_path_of_sqlalchemy_is_captured(
    name: str, file: sqlite3.Connection, engine: Engine, tmp_path: Path
) -> None:
    work, expected = WRITE_PATHS[name]
    with Session(engine) as session:
        session.execute(insert(Parent), [parent(A, "a"), parent(B, "b")])
        session.execute(insert(Child).values(parent_id=A))
        session.commit()
        before = tables.last_seq(file)
        work(session)
        session.commit()
    assert ops(file, before) == expected
    assert [change.seq for change in changes(file)] == list(range(1, tables.last_seq(file) + 1))
    assert replay(changes(file), tmp_path / "copy.db") == contents(file)


def test_a_connection_that_knows_nothing_of_us_is_captured(
    path: Path, file: sqlite3.Connection, tmp_path: Path
) -> None:
    """As sqlite3's shell opens it: no pragma, no function, another process."""
    program = f"""
import sqlite3
c = sqlite3.connect({str(path)!r})
c.execute("INSERT INTO facts (id, count) VALUES ('1', 1)")
c.executemany("INSERT INTO facts (id, count) VALUES (?, 2)", [('2',), ('3',)])
c.execute("UPDATE facts SET count = count + 1 WHERE id = '2'")
c.executescript("DELETE FROM facts WHERE id = '3'; INSERT INTO facts (id) VALUES ('4');")
c.commit()
c.execute("INSERT INTO facts (id) VALUES ('lost')")
c.rollback()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
    assert [op for op, _ in ops(file)] == [I, I, I, U, D, I]
    assert replay(changes(file), tmp_path / "copy.db") == contents(file)


VALUES: dict[str, object] = {
    "nothing": None,
    "float that decimal text loses": 0.1 + 0.2,
    "smallest denormal": 5e-324,
    "largest float": sys.float_info.max,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "minus zero": -0.0,
    "float without fraction": 3.0,
    "large float without fraction": 2.0**62,
    "largest integer": 2**63 - 1,
    "smallest integer": -(2**63),
    "integer beyond 2^53": 2**53 + 1,
    "empty text": "",
    "NUL in text": "a\0b",
    "emoji": "\N{FACE WITH TEARS OF JOY}\N{ZERO WIDTH JOINER}\N{COMBINING ACUTE ACCENT}",
    "quotes": "'\"`\\n",
    "text that looks like a number": "0012.50",
    "empty blob": b"",
    "blob": bytes(range(256)),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("column", ["value", "count", "body", "text"])
def test_a_value_is_captured_to_the_bit(
    name: str, column: str, file: sqlite3.Connection, tmp_path: Path
) -> None:
    """As the table holds it, in a column of whatever affinity: inserted, updated, deleted."""
    file.execute(f"INSERT INTO facts (id, {column}) VALUES ('x', ?)", (VALUES[name],))
    held = file.execute(f"SELECT {column}, typeof({column}) FROM facts").fetchone()
    file.execute(f"UPDATE facts SET {column} = 'between'")
    file.execute(f"UPDATE facts SET {column} = ?", (VALUES[name],))
    assert replay(changes(file), tmp_path / "copy.db") == contents(file)
    file.execute("DELETE FROM facts")
    inserted, _, updated, deleted = changes(file)
    position = inserted.layout.names.index(column)
    assert inserted.new and updated.new and deleted.old
    for row in (inserted.new, updated.new, deleted.old):
        assert exact(row[position]) == exact(held[0])
    stored = file.execute(f"SELECT typeof(v{position}) FROM outbox WHERE op = 'I'").fetchone()
    assert stored[0] == held[1]


def test_a_text_that_is_no_utf8_is_captured_and_read(
    file: sqlite3.Connection, tmp_path: Path
) -> None:
    """Its bytes come back, and its neighbours are read as ever."""
    file.execute("INSERT INTO facts (id, text) VALUES ('before', 'ä')")
    file.execute("INSERT INTO facts (id, text) VALUES ('torn', CAST(x'61ff00fe62' AS TEXT))")
    file.execute("INSERT INTO facts (id, text) VALUES ('after', 'ö')")
    texts = [change.new[-1] for change in changes(file) if change.new]
    assert texts[0] == "ä" and texts[2] == "ö"
    assert texts[1].encode("utf-8", "surrogateescape") == b"a\xff\x00\xfeb"
    assert replay(changes(file), tmp_path / "copy.db") == contents(file)
    assert file.text_factory is str


def test_bits_that_compare_as_equal_count_as_changed(file: sqlite3.Connection) -> None:
    """What SQLite calls equal need not be the same: 1 and 1.0 in a column without affinity."""
    file.execute("INSERT INTO facts (id, body, value) VALUES ('x', 1, 2.5)")
    file.execute("UPDATE facts SET body = 1.0")
    change = changes(file)[-1]
    assert [change.layout.names[position] for position in change.changed] == ["body"]


def test_a_key_that_changes_only_its_case_is_a_delete_and_an_insert(tmp_path: Path) -> None:
    """Whatever the column's collation calls equal: on the hub it is another key."""
    with contextlib.closing(open_sqlite(tmp_path / "x.db", create=True)) as connection:
        connection.execute("CREATE TABLE names (name TEXT COLLATE NOCASE PRIMARY KEY)")
        column = {"name": "name", "type": "TEXT", "storage": "TEXT", "nullable": False}
        table = {"kind": "shared", "columns": [column], "key": ["name"]}
        capture.install(connection, {"revision": [], "tables": {"names": table}}, node_id=NODE)
        connection.execute("INSERT INTO names VALUES ('a')")
        connection.execute("UPDATE names SET name = 'A'")
        assert [change.op for change in changes(connection)] == [I, D, I]


def test_numbers_have_no_gaps_whatever_was_undone(file: sqlite3.Connection) -> None:
    """Rolled-back transactions, failed statements, OR FAIL that keeps half of its rows."""

    def fails(statement: str) -> None:
        with pytest.raises(sqlite3.IntegrityError):
            file.execute(statement)

    file.execute("INSERT INTO parents VALUES ('a', 'a', NULL, '{}')")
    file.execute("BEGIN IMMEDIATE")
    file.execute("INSERT INTO parents VALUES ('b', 'b', NULL, '{}')")
    file.execute("ROLLBACK")
    two = "VALUES ('b', 'b', NULL, '{}'), ('c', 'a', NULL, '{}')"
    fails(f"INSERT INTO parents {two}")
    fails(f"INSERT OR ROLLBACK INTO parents {two}")
    fails(f"INSERT OR FAIL INTO parents {two}")
    file.execute("INSERT OR IGNORE INTO parents VALUES ('d', 'a', NULL, '{}')")
    file.execute("INSERT INTO parents VALUES ('e', 'e', NULL, '{}')")
    found = changes(file)
    assert [change.key_text for change in found] == ["a", "b", "e"]
    assert [change.seq for change in found] == [1, 2, 3]
    assert tables.last_seq(file) == 3


def test_nothing_is_captured_while_paused_and_everything_after(file: sqlite3.Connection) -> None:
    """Pausing belongs to its transaction: an undone one does not leave capture off."""
    file.execute("BEGIN IMMEDIATE")
    with capture.paused(file), capture.paused(file):
        file.execute("INSERT INTO facts (id) VALUES ('mirror')")
    file.execute("INSERT INTO facts (id) VALUES ('seen')")
    file.execute("COMMIT")
    file.execute("BEGIN IMMEDIATE")
    with contextlib.suppress(sqlite3.IntegrityError), capture.paused(file):
        file.execute("INSERT INTO facts (id) VALUES ('seen')")
    file.execute("ROLLBACK")
    file.execute("INSERT INTO facts (id) VALUES ('after')")
    assert [change.key_text for change in changes(file)] == ["seen", "after"]
    with pytest.raises(RuntimeError, match="inside a transaction"), capture.paused(file):
        pass


def test_a_standalone_file_pays_for_nothing(path: Path) -> None:
    """No outbox, no trigger; and after a hub there was one, no trigger any more."""
    create_file(path)
    with contextlib.closing(open_sqlite(path)) as connection:
        assert not capture.is_installed(connection)
        assert not capture.remove(connection)
        assert pending(connection) == 0 and read_stream(connection) is None
        capture.install(connection, document(), node_id=NODE)
        connection.execute("INSERT INTO facts (id) VALUES ('x')")
        assert capture.remove(connection)
        assert not capture.is_installed(connection)
        connection.execute("INSERT INTO facts (id) VALUES ('y')")
        assert pending(connection) == 1, "what waits stays"
        found = connection.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'")
        assert found.fetchone() == (0,)


def test_what_was_there_before_is_queued_once(path: Path, tmp_path: Path) -> None:
    """The first time as new, parents first; after a time without a hub as sent before."""
    create_file(path)
    with contextlib.closing(open_sqlite(path)) as connection:
        connection.execute("INSERT INTO parents VALUES ('p', 'p', NULL, '{}')")
        connection.execute("INSERT INTO children VALUES ('c', 'p')")
        connection.execute("INSERT INTO facts (id) VALUES ('f')")
        connection.execute("INSERT INTO notes (text) VALUES ('stays')")
        done = capture.install(connection, document(), node_id=NODE)
        assert (done.changed, done.baseline_rows, done.new_stream) == (True, 3, False)
        queued = [(change.layout.table, change.resent) for change in changes(connection)]
        assert sorted(queued) == [("children", False), ("facts", False), ("parents", False)]
        assert queued.index(("parents", False)) < queued.index(("children", False))
        assert replay(changes(connection), tmp_path / "copy.db") == contents(connection)
        assert not capture.install(connection, document(), node_id=NODE).changed
        capture.remove(connection)
        connection.execute("INSERT INTO facts (id) VALUES ('offline')")
        assert capture.install(connection, document(), node_id=NODE).baseline_rows == 4
        assert [change.resent for change in changes(connection, 3)] == [True] * 4


def test_a_migration_keeps_what_waits_and_captures_the_new_columns(
    path: Path, file: sqlite3.Connection
) -> None:
    """Old rows keep their layout; a table that stayed as it was keeps it, too."""
    file.execute("INSERT INTO facts (id) VALUES ('old')")
    file.execute("BEGIN IMMEDIATE")
    capture.drop_triggers(file)
    file.execute("ALTER TABLE facts DROP COLUMN body")
    file.execute("ALTER TABLE facts ADD COLUMN extra TEXT")
    file.execute(f"CREATE TABLE {REVISIONS} (position INTEGER, chain, revision, changes)")
    file.execute(f"INSERT INTO {REVISIONS} VALUES (1, 'c', 'r1', NULL), (2, 'c', 'r2', NULL)")
    file.execute("COMMIT")
    newer = document(revision="r2")
    columns = newer["tables"]["facts"]["columns"]
    columns[:] = [column for column in columns if column["name"] != "body"]
    columns.append({**columns[-1], "name": "extra"})
    assert capture.problems(file, newer) != []
    done = capture.install(file, newer, node_id=NODE)
    assert (done.changed, done.baseline_rows) == (True, 0)
    assert capture.problems(file, newer) == []
    file.execute("INSERT INTO facts (id, extra) VALUES ('new', 'x')")
    file.execute("INSERT INTO parents VALUES ('p', 'p', NULL, '{}')")
    old, new, same = changes(file)
    assert "body" in old.layout.names and old.layout.revision == "r1"
    assert new.layout.names[-1] == "extra" and new.layout.revision == "r2"
    assert new.new is not None and new.new[-1] == "x"
    assert same.layout.revision == "r1"


def test_a_table_that_becomes_forwarded_is_queued(file: sqlite3.Connection) -> None:
    """Only that one, and as rows that the hub may have already."""
    file.execute("INSERT INTO facts (id) VALUES ('f')")
    file.execute("INSERT INTO notes (id, text) VALUES (1, 'n')")
    newer = document(revision="r2")
    newer["tables"]["notes"]["kind"] = "shared"
    assert capture.install(file, newer, node_id=NODE).baseline_rows == 1
    assert [(c.layout.table, c.resent) for c in changes(file, 1)] == [("notes", True)]


TAMPERING = {
    "a trigger is gone": ("DROP TRIGGER outbox_insert_facts", "outbox_insert_facts is missing"),
    "a trigger was changed": (
        "DROP TRIGGER outbox_delete_facts; CREATE TRIGGER outbox_delete_facts "
        "AFTER DELETE ON facts BEGIN SELECT 1; END",
        "outbox_delete_facts was changed",
    ),
    "a foreign trigger": (
        "CREATE TRIGGER outbox_mine AFTER DELETE ON facts BEGIN SELECT 1; END",
        "outbox_mine is not ours",
    ),
    "capture is off": ("UPDATE outbox_state SET capture = 0", "switched off"),
    "another layout": (
        'UPDATE outbox_layouts SET definition = \'{"kind":"facts","columns":[],"key":[]}\'',
        "another layout",
    ),
    "the table was made anew": (
        "DROP TABLE facts; CREATE TABLE facts (id TEXT PRIMARY KEY, value, count, body, text)",
        "outbox_update_facts is missing",
    ),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_what_keeps_a_file_from_capturing_is_found_and_mended(
    name: str, file: sqlite3.Connection
) -> None:
    script, expected = TAMPERING[name]
    assert capture.problems(file, document()) == []
    file.executescript(script)
    assert expected in " ".join(capture.problems(file, document()))
    done = capture.install(file, document(), node_id=NODE)
    assert (done.changed, done.baseline_rows) == (True, 0)
    assert capture.problems(file, document()) == []
    file.execute("INSERT INTO facts (id) VALUES ('x')")
    assert ops(file) == [(I, "facts")]


def test_a_file_without_the_tables_is_refused_by_name(path: Path) -> None:
    """And left as it was."""
    with contextlib.closing(open_sqlite(path, create=True)) as connection:
        with pytest.raises(capture.CaptureError, match="the table facts lacks body, count, id"):
            capture.install(connection, document(), node_id=NODE)
        assert not tables.exist(connection)
        assert capture.problems(connection, document()) == ["the file has no outbox"]


def test_a_file_of_another_box_is_a_new_stream(file: sqlite3.Connection) -> None:
    """What it had not sent is sent under the new name, and only where it fits."""
    before = read_stream(file)
    file.execute("INSERT INTO facts (id) VALUES ('x')")
    done = capture.install(file, document(), node_id="another")
    after = read_stream(file)
    assert before and after
    assert (done.new_stream, done.baseline_rows) == (True, 0)
    assert after.node_id == "another"
    assert after.stream_id != before.stream_id == after.forked_from
    assert [(change.seq, change.resent) for change in changes(file)] == [(2, True)]
