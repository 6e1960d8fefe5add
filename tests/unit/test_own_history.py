# SPDX-License-Identifier: Apache-2.0
"""What a box wrote to PostgreSQL is in its own tables when SQLite begins to serve."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgepaas.marks.changes import Change, Op
from edgepaas.outbox import ledger
from edgepaas.outbox.journal.journal import Journal
from edgepaas.outbox.layout import forwarded_layouts, stored_layouts
from edgepaas.outbox.resending import fact_copies, own_history, resent
from edgepaas.outbox.resending.own_history import FactCopier, copy_history, copy_shared
from tests.support.outbox import NODE, captured_file, document

LAYOUTS = forwarded_layouts(document())


@pytest.fixture
def file(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with captured_file(tmp_path / "edgepaas.db") as connection:
        yield connection


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    found = Journal(tmp_path / "edgepaas.db.journal", NODE, LAYOUTS, wall=lambda: 1_000_000.0)
    yield found
    found.close()


def change(table: str, op: Op, *images: dict[str, Any]) -> Change:
    """A change whose columns that are not given are NULL; of an update: the new, then the old."""
    (names,) = [layout.names for layout in LAYOUTS if layout.table == table]
    return Change(table, op, tuple(image.get(name) for image in images for name in names))


def parent(identity: str, note: str | None = None) -> dict[str, Any]:
    """A row of the parents."""
    return {"id": identity, "name": identity, "note": note, "labels": "{}"}


def wrote(journal: Journal, *changes: Change) -> None:
    """Have PostgreSQL acknowledge a transaction."""
    journal.confirm(journal.ahead("", 0, changes))


def facts(journal: Journal, *names: str) -> None:
    """Have PostgreSQL acknowledge facts of these names, each in a transaction."""
    for name in names:
        wrote(journal, change("facts", "I", {"id": name, "text": "x"}))


def copied(file: sqlite3.Connection, journal: Journal) -> int:
    """Copy all there is."""
    with journal._writer.reading() as connection:
        return copy_history(file, connection, seconds=60)


def test_shared_changes_are_applied_in_their_order_and_once(
    file: sqlite3.Connection, journal: Journal
) -> None:
    wrote(journal, change("parents", "I", parent("a", "1")))
    wrote(journal, change("parents", "U", parent("a", "2"), parent("a", "1")))
    wrote(
        journal,
        change("parents", "I", parent("b", "1")),
        change("children", "I", {"id": "c", "parent_id": "b"}),
    )
    wrote(journal, change("parents", "I", parent("d")), change("parents", "D", parent("d")))
    assert copied(file, journal) == 6
    assert file.execute("SELECT id, note FROM parents ORDER BY id").fetchall() == [
        ("a", "2"),
        ("b", "1"),
    ]
    assert file.execute("SELECT id FROM children").fetchall() == [("c",)]
    assert ledger.read(file)["accepted"] == 0, "nothing of it is captured"
    with journal._writer.reading() as connection:
        assert copy_shared(file, connection) == 0
    file.execute("UPDATE parents SET note = 'another box' WHERE id = 'a'")
    wrote(journal, change("parents", "U", parent("b", "9"), parent("b", "1")))
    assert copied(file, journal) == 1, "what was applied before is not applied again"
    assert file.execute("SELECT note FROM parents ORDER BY id").fetchall() == [
        ("another box",),
        ("9",),
    ]


def test_a_shared_row_that_the_file_refuses_is_left_to_the_mirror(
    file: sqlite3.Connection, journal: Journal
) -> None:
    wrote(journal, change("children", "I", {"id": "c", "parent_id": "nobody"}))
    wrote(journal, change("parents", "I", parent("a", "1")))
    assert copied(file, journal) == 1


def test_facts_are_copied_the_newest_first_and_in_steps(
    file: sqlite3.Connection, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_history, "STEP", 2)
    facts(journal, *"abcde")
    with journal._writer.reading() as connection:
        copier = FactCopier(file, connection)
        steps = []
        while not copier.done:
            copier.step()
            steps.append(sorted(row[0] for row in file.execute("SELECT id FROM facts")))
    assert steps[:2] == [["d", "e"], ["b", "c", "d", "e"]]
    assert steps[-1] == ["a", "b", "c", "d", "e"]
    assert ledger.read(file)["accepted"] == 0
    facts(journal, "f")
    assert copied(file, journal) == 1
    assert copied(file, journal) == 0


def test_no_more_than_the_newest_facts_are_copied(
    file: sqlite3.Connection, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_history, "STEP", 1)
    monkeypatch.setattr(own_history, "MOST_FACTS", 2)
    facts(journal, *"abc")
    assert copied(file, journal) == 2
    assert [row[0] for row in file.execute("SELECT id FROM facts ORDER BY id")] == ["b", "c"]


def test_what_is_in_flight_is_copied_once_it_is_known(
    file: sqlite3.Connection, journal: Journal
) -> None:
    facts(journal, "a")
    journal.leave(journal.ahead("11111111-1111-4111-8111-111111111111", 1, [
        change("facts", "I", {"id": "b"})
    ]))  # fmt: skip
    facts(journal, "c")
    copied(file, journal)
    assert [row[0] for row in file.execute("SELECT id FROM facts")] == ["a"]
    journal.settle({"11111111-1111-4111-8111-111111111111": 1})
    assert copied(file, journal) == 2
    assert [row[0] for row in file.execute("SELECT id FROM facts ORDER BY id")] == ["a", "b", "c"]


def test_copies_leave_the_file_by_age(file: sqlite3.Connection, journal: Journal) -> None:
    """A fact of the file's own that was copied over stays with its row of the outbox."""
    file.execute("INSERT INTO facts (id, text) VALUES ('own', 'x')")
    facts(journal, "own", "a", "b")
    assert copied(file, journal) == 2
    assert fact_copies.reclaim(file, older_than=10**10) == 0
    assert fact_copies.reclaim(file, older_than=60, limit=1) == 1
    assert fact_copies.reclaim(file, older_than=60) == 1
    assert fact_copies.reclaim(file, older_than=60) == 0
    assert [row[0] for row in file.execute("SELECT id FROM facts")] == ["own"]
    assert ledger.read(file)["accepted"] == 1, "nothing is deleted on the hub"


def test_copies_that_are_sent_again_are_counted_by_their_entries(
    file: sqlite3.Connection, journal: Journal
) -> None:
    """Their stream and mark tell which of them a hub lost, after the journal has forgotten them."""
    streams = [f"{number}1111111-1111-4111-8111-111111111111" for number in range(2)]
    for stream_id, mark, names in (
        (streams[0], 1, "ab"),
        (streams[0], 2, "cd"),
        (streams[1], 1, "e"),
    ):
        rows = [change("facts", "I", {"id": name}) for name in names]
        journal.confirm(journal.ahead(stream_id, mark, rows))
    assert copied(file, journal) == 5
    (layout,) = [one for one in stored_layouts(file).values() if one.table == "facts"]
    for names in ("bc", "d", "e", "x"):
        entries = fact_copies.entries_of(file, layout, [(name,) for name in names])
        resent.remember_copies(file, entries, {streams[1]: "sum"})
    lost = {streams[0]: (1, 2), "sum": (0, 1)}
    assert resent.rows_of(file, lost) == {streams[0]: 2, "sum": 1}
    assert resent.rows_of(file, {streams[0]: (0, 2)}) == {streams[0]: 3}
    assert resent.not_noted(file) == [], "the journal has nothing to note of them"


def test_copies_of_an_earlier_build_are_of_no_entry(
    file: sqlite3.Connection, journal: Journal
) -> None:
    file.execute("CREATE TABLE outbox_copies (id INTEGER PRIMARY KEY, layout INTEGER NOT NULL, "
                 "at INTEGER NOT NULL, v0)")  # fmt: skip
    facts(journal, "a", "b")
    file.execute("INSERT INTO outbox_copies (layout, at, v0) VALUES (1, 1000000, 'old')")
    assert copied(file, journal) == 2
    (layout,) = [one for one in stored_layouts(file).values() if one.table == "facts"]
    keys: list[tuple[Any, ...]] = [("a",), ("old",)]
    assert sum(fact_copies.entries_of(file, layout, keys).values()) == 1
    assert fact_copies.reclaim(file, older_than=60) == 2


def test_a_journal_that_began_anew_is_copied_from_its_beginning(
    file: sqlite3.Connection, tmp_path: Path
) -> None:
    """Numbers of rows are given out again; orders go on, or the file is another one."""
    journal = Journal(tmp_path / "one.journal", NODE, LAYOUTS)
    facts(journal, "a", "b")
    copied(file, journal)
    journal.prune(budget=0, limit=100)
    facts(journal, "c")
    assert copied(file, journal) == 1
    journal.close()


def test_rows_of_a_layout_that_the_file_no_longer_has_are_not_shown(
    file: sqlite3.Connection, journal: Journal
) -> None:
    facts(journal, "a")
    for trigger in ("insert", "delete", "update", "rekey"):
        file.execute(f"DROP TRIGGER outbox_{trigger}_facts")
    file.execute("ALTER TABLE facts RENAME COLUMN text TO words")
    assert copied(file, journal) == 0
    assert file.execute("SELECT count(*) FROM facts").fetchone() == (0,)
