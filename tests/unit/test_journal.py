# SPDX-License-Identifier: Apache-2.0
"""The journal of what PostgreSQL acknowledged: written ahead, settled, ordered, within bounds."""

import contextlib
import errno
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgepaas.errors import DatabaseBusy, DatabaseFull
from edgepaas.outbox.journal import tables
from edgepaas.outbox.journal.entries import Change, Op
from edgepaas.outbox.journal.journal import Journal
from edgepaas.outbox.journal.opening import JournalUnusable
from edgepaas.outbox.layout import forwarded_layouts
from tests.support.outbox import NODE, captured_file, changes, document

OTHER_BOX = "5d6c0f4e-93ce-4a3b-8a0e-2f0c5a1d7b11"


def fact(number: int, note: Any = None) -> Change:
    """One inserted fact with *number* in its key, in the outbox's encoding."""
    return Change("facts", "I", (f"fact-{number}", None, number, None, note))


def parent(op: Op, name: str) -> Change:
    """A change of a shared row."""
    (layout,) = (one for one in layouts() if one.table == "parents")
    return Change("parents", op, tuple(name if one == "id" else None for one in layout.names))


def layouts() -> Any:
    return forwarded_layouts(document())


@contextlib.contextmanager
def opened(path: Path, **options: Any) -> Iterator[Journal]:
    journal = Journal(path, NODE, layouts(), **options)
    try:
        yield journal
    finally:
        journal.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "edgepaas.db.journal"


def wait_until(reached: Callable[[], bool]) -> bool:
    """Whether *reached* came true within a minute."""
    until = time.monotonic() + 60
    while not reached():
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True


def keys(entries: Any) -> list[list[Any]]:
    return [[change.key[0] for change in entry.changes] for entry in entries]


def by_another_process(path: Path, what: str = "state") -> list[Any]:
    """What stands in the file, as who opens it anew finds it: the heads of entries, in order."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(f"SELECT {what} FROM journal WHERE ord IS NOT NULL ORDER BY ord")
        return [row[0] for row in rows]


# -- written ahead, and what became of it --


def test_an_entry_is_in_the_file_before_it_is_confirmed(path: Path) -> None:
    with opened(path) as journal:
        journal.ahead("s", 1, [fact(1), fact(2)])
        assert by_another_process(path) == [tables.IN_FLIGHT]
        assert by_another_process(path, "rows") == [2]


def test_confirmations_ride_with_a_later_entry(path: Path) -> None:
    with opened(path) as journal:
        for number in range(1, 66):
            journal.confirm(journal.ahead("s", number, [fact(number)]))
            assert by_another_process(path)[-1] == tables.IN_FLIGHT
        journal.ahead("s", 66, [fact(66)])
        assert by_another_process(path) == [tables.CONFIRMED] * 64 + [tables.IN_FLIGHT] * 2


def test_an_entry_is_acknowledged_where_its_connection_went_on(path: Path) -> None:
    """A process that was killed had not written so; and the server has lost both since."""
    with opened(path) as journal:
        in_flight(path, "s", 1, 2, 3)
        in_flight(path, "t", 4)
        journal.settle({"s": 3})
        assert [(one.stream_id, one.mark) for one in journal.lacking({})] == [
            ("s", 1), ("s", 2), ("s", 3),
        ]  # fmt: skip
    other = path.with_name("other")
    with opened(other) as journal:
        in_flight(other, "s", 1, 2, 3)
        journal.settle({"s": 1}, journal.abandoned())
        assert [one.mark for one in journal.entries("s", 0)] == [1, 2]
        assert [one.mark for one in journal.doubtful({"s": 1})] == [3]


def test_what_became_of_the_last_entry_is_written_without_another_one(path: Path) -> None:
    with opened(path) as journal:
        journal.confirm(journal.ahead("s", 1, [fact(1)]))
        journal.flush()
        assert by_another_process(path) == [tables.CONFIRMED]
        journal.confirm(journal.ahead("s", 2, [fact(2)]))
    assert by_another_process(path) == [tables.CONFIRMED, tables.CONFIRMED]


def test_an_entry_that_the_hub_refused_leaves_nothing(path: Path) -> None:
    with opened(path) as journal:
        journal.drop(journal.ahead("s", 1, [fact(1), fact(2)]))
        journal.confirm(journal.ahead("s", 1, [fact(3)]))
        assert keys(journal.entries("s", 0)) == [["fact-3"]]
        assert journal.unsettled() == []
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM journal").fetchone() == (1,)


def test_rows_that_turned_out_to_be_no_change_are_not_given(path: Path) -> None:
    with opened(path) as journal:
        entry = journal.ahead("s", 1, [fact(1), fact(2), fact(3)])
        journal.confirm(entry)
        journal.void(entry, [0, 2])
        assert keys(journal.entries("s", 0)) == [["fact-2"]]


def test_what_is_recorded_after_the_answer_is_confirmed(path: Path) -> None:
    with opened(path) as journal:
        order = journal.next_order()
        journal.record("s", 2, [fact(2)])
        journal.record("s", 1, [fact(1)], order=order)
        assert keys(journal.entries("s", 0)) == [["fact-1"], ["fact-2"]]
        assert by_another_process(path) == [tables.CONFIRMED, tables.CONFIRMED]


def test_an_entry_without_changes_takes_no_room(path: Path) -> None:
    with opened(path) as journal:
        journal.confirm(journal.ahead("s", 1, []))
        journal.flush()
        assert journal.reach().rows == 0


def test_the_journal_of_a_killed_process_has_all_that_it_wrote(path: Path) -> None:
    """Killed between writing ahead and anything else, its last entry is in flight."""
    script = (
        "import sys, time; from pathlib import Path\n"
        "from edgepaas.outbox.journal.journal import Journal\n"
        "from tests.unit.test_journal import NODE, fact, layouts\n"
        "journal = Journal(Path(sys.argv[1]), NODE, layouts())\n"
        "for number in (1, 2, 3):\n"
        "    entry = journal.ahead('s', number, [fact(number)])\n"
        "    if number < 3: journal.confirm(entry)\n"
        "print('written', flush=True); time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        os.kill(process.pid, signal.SIGKILL)
    with opened(path) as journal:
        assert keys(journal.unsettled()) == [["fact-1"], ["fact-2"], ["fact-3"]]
        journal.settle({"s": 2}, journal.abandoned())
        assert keys(journal.entries("s", 0)) == [["fact-1"], ["fact-2"]]
        assert journal.unsettled() == []
        assert keys(map(journal.with_changes, journal.doubtful({"s": 2}))) == [["fact-3"]]


# -- what is read is what was written --


def test_changes_come_back_as_the_outbox_gives_them(path: Path, tmp_path: Path) -> None:
    """To the bit, for every operation."""
    with captured_file(tmp_path / "edgepaas.db") as file:
        file.execute("INSERT INTO facts VALUES ('a', -0.0, 9007199254740993, x'00ff', 'é')")
        file.execute("UPDATE facts SET value = 5e-324, text = NULL WHERE id = 'a'")
        file.execute("DELETE FROM facts WHERE id = 'a'")
        file.execute("INSERT INTO parents VALUES ('p', 'name', NULL, '{}')")
        wanted = changes(file)
    letters: dict[str, Op] = {"insert": "I", "update": "U", "delete": "D"}
    with opened(path) as journal:
        journal.record(
            "s",
            1,
            [
                Change(one.layout.table, letters[one.op], (*(one.new or ()), *(one.old or ())))
                for one in wanted
            ],
        )
        (entry,) = journal.entries("s", 0)
    found = entry.changes
    assert [repr((one.op, one.layout.table, one.new, one.old)) for one in found] == [
        repr((one.op, one.layout.table, one.new, one.old)) for one in wanted
    ]
    assert [one.key for one in found] == [one.key for one in wanted]


def test_rows_are_read_by_the_layout_that_they_were_written_in(path: Path) -> None:
    (layout,) = (one for one in layouts() if one.table == "facts")
    narrow = replace(layout, columns=layout.columns[:2])
    with opened(path) as journal:
        journal.record("s", 1, [fact(1, "text")])
    journal = Journal(path, NODE, [narrow])
    with contextlib.closing(journal):
        journal.record("s", 2, [Change("facts", "I", ("fact-2", 1.5))])
        first, second = journal.entries("s", 0)
    assert first.changes[0].new == ("fact-1", None, 1, None, "text")
    assert second.changes[0].new == ("fact-2", 1.5)


# -- many at once --


def test_all_that_wait_are_written_in_one_transaction(path: Path) -> None:
    with opened(path) as journal:
        journal.record("s", 1, [fact(0)])
        commits: list[str] = []
        journal._writer._file.connection.set_trace_callback(
            lambda text: commits.append(text) if text == "COMMIT" else None
        )
        threads = [
            threading.Thread(target=journal.ahead, args=(f"s{number}", 1, [fact(number)]))
            for number in range(8)
        ]
        with journal._writer._turn:  # a transaction is under way
            for thread in threads:
                thread.start()
            assert wait_until(lambda: len(journal._writer._waiting) == 8)
        for thread in threads:
            thread.join()
        assert commits == ["COMMIT"]
        assert sorted(keys(journal.unsettled())) == []  # each is in flight here
        assert len(by_another_process(path)) == 9


def test_an_entry_that_cannot_be_written_fails_alone(path: Path) -> None:
    with opened(path) as journal:
        failed: list[BaseException] = []

        def write(change: Change) -> None:
            try:
                journal.record("s", 1, [change])
            except Exception as error:
                failed.append(error)

        wrong = [Change("facts", "I", ("x", 1.0, 2**70, None, None)), Change("gone", "I", ("x",))]
        threads = [
            threading.Thread(target=write, args=(one,)) for one in (fact(1), *wrong, fact(2))
        ]
        with journal._writer._turn:
            for thread in threads:
                thread.start()
            assert wait_until(lambda: len(journal._writer._waiting) == 4)
        for thread in threads:
            thread.join()
        assert sorted(type(one).__name__ for one in failed) == ["OverflowError", "ValueError"]
        assert sorted(keys(journal.entries("s", 0))) == [["fact-1"], ["fact-2"]]


def test_two_processes_write_into_one_order(path: Path) -> None:
    with opened(path, owner="a") as one, opened(path, owner="b") as other:
        for number in range(20):
            journal = (one, other)[number % 2]
            journal.confirm(journal.ahead(f"s{number % 2}", number + 1, [fact(number)]))
        one.flush()
        other.flush()
        found = one.lacking({})
        assert [entry.mark for entry in found] == list(range(1, 21))
        assert {entry.owner for entry in found} == {"a", "b"}


def test_the_order_goes_on_after_a_boot(path: Path) -> None:
    """The clock that runs since boot begins anew; so may the one that tells the date."""
    for boot in range(3):
        clock = itertools.count(1_000_000 - 300_000 * boot, 7).__next__
        with opened(path, clock=clock, wall=lambda boot=boot: 2e9 - boot * 1e9) as journal:
            for number in range(3):
                journal.record("s", boot * 3 + number + 1, [fact(boot * 3 + number)])
    with opened(path) as journal:
        assert [entry.mark for entry in journal.entries("s", 0)] == list(range(1, 10))


# -- settled by the hub's marks --


def in_flight(path: Path, stream: str, *marks: int, unanswered: bool = False) -> None:
    """Write an entry for each of *marks*, by a process that ends before it has noted more.

    *unanswered*: it notes that their COMMIT was not answered.
    """
    with opened(path, owner="gone") as journal:
        for mark in marks:
            entry = journal.ahead(stream, mark, [fact(mark)])
            if unanswered:
                journal.leave(entry)


@pytest.mark.parametrize("unanswered", [False, True])
@pytest.mark.parametrize(
    ("hub", "alive", "kept", "goes", "left"),
    [
        pytest.param({"s": 3}, False, [1, 2, 3], [], [], id="the hub has it"),
        pytest.param({"s": 2}, False, [1, 2], [3], [], id="the hub does not have it"),
        pytest.param({"s": 2}, True, [1, 2], [], [3], id="it may still be committed"),
        pytest.param({"s": 3}, True, [1, 2, 3], [], [], id="committed on an open connection"),
        pytest.param({"s": 1}, False, [1, 2], [3], [], id="the hub went back before it"),
        pytest.param({}, False, [1, 2], [3], [], id="the hub is another database"),
    ],
)
def test_an_entry_in_flight_is_settled_by_its_mark(  # noqa: PLR0917 - pytest names them
    path: Path,
    hub: dict[str, int],
    alive: bool,
    kept: list[int],
    goes: list[int],
    left: list[int],
    unanswered: bool,
) -> None:
    """What the hub lacks is in doubt where its process was killed: a client may have been told."""
    with opened(path) as journal:
        for number in (1, 2):
            journal.confirm(journal.ahead("s", number, [fact(number)]))
        in_flight(path, "s", 3, unanswered=unanswered)
        abandoned = journal.abandoned(lambda stream, _owner: alive and stream == "s")
        journal.settle(hub, abandoned)
        assert [entry.mark for entry in journal.entries("s", 0)] == kept
        assert [entry.mark for entry in journal.unsettled()] == left
        assert [entry.mark for entry in journal.doubtful(hub)] == ([] if unanswered else goes)
        # A COMMIT that was on its way when its process was killed may come to be after all.
        journal.settle({"s": 3})
        later = kept if unanswered and goes else [1, 2, 3]
        assert [entry.mark for entry in journal.entries("s", 0)] == later


def test_an_entry_is_not_given_up_by_marks_that_were_read_before_it(path: Path) -> None:
    """Another process writes, is answered and ends while this one reads the hub's marks."""
    with opened(path) as journal:
        in_flight(path, "s", 1)
        abandoned = journal.abandoned()
        hub = {"s": 1}
        in_flight(path, "s", 2)
        journal.settle(hub, abandoned)
        assert [entry.mark for entry in journal.unsettled()] == [2]
        journal.settle({"s": 2}, journal.abandoned())
        assert [entry.mark for entry in journal.entries("s", 0)] == [1, 2]


def test_what_is_in_doubt_of_a_row_that_was_changed_since_stays_here(path: Path) -> None:
    """Whoever was not answered may have repeated it; facts are the same row each time."""
    with opened(path) as journal:
        with opened(path, owner="gone") as killed:
            made = [parent("I", name) for name in ("a", "b")]
            killed.ahead("s", 1, [fact(1), *made])
        journal.record("t", 1, [fact(1), parent("D", "a")])
        journal.settle({"t": 1}, journal.abandoned())
        (entry,) = journal.doubtful({"t": 1})
        assert [change.key for change in journal.with_changes_in_doubt(entry).changes] == [
            ("fact-1",), ("b",),
        ]  # fmt: skip
        journal.note_resent([entry.order])
        assert journal.doubtful({"t": 1}) == []


def test_an_entry_whose_mark_did_not_move_is_told_by_the_one_that_did(path: Path) -> None:
    with opened(path) as journal:
        journal.confirm(journal.ahead("s", 6, [fact(1)]), ("t", 1))
        assert [one.mark for one in journal.lacking({"s": 3})] == [1]
        assert journal.lacking({"s": 3, "t": 1}) == []


def test_an_entry_under_way_is_not_settled(path: Path) -> None:
    """Neither one whose COMMIT is being waited for, nor one whose end is not written yet."""
    with opened(path) as journal:
        first = journal.ahead("s", 1, [fact(1)])
        second = journal.ahead("t", 1, [fact(2)])
        journal.confirm(second)
        assert journal.settle({}, journal.abandoned()) == 0
        journal.confirm(first)
        assert journal.settle({}, journal.abandoned()) == 0
        assert [entry.stream_id for entry in journal.lacking({})] == ["s", "t"]


def test_an_entry_of_another_living_process_is_left(path: Path) -> None:
    with opened(path, owner="a") as one, opened(path, owner="b") as other:
        one.ahead("s", 1, [fact(1)])
        assert other.abandoned(lambda _stream, owner: owner == "a") == frozenset()
        assert other.settle({}, other.abandoned(lambda _stream, owner: owner == "b")) == 1
        assert other.unsettled() == []


def test_entries_settled_long_ago_are_not_looked_at(path: Path) -> None:
    with opened(path) as journal:
        for number in range(1, 5):
            journal.record("s", number, [fact(number)])
        journal.leave(journal.ahead("s", 5, [fact(5)]))
        journal.prune(budget=1 << 30)
        journal.leave(journal.ahead("s", 6, [fact(6)]))
        assert [entry.mark for entry in journal.unsettled()] == [5, 6]


def test_an_entry_in_flight_is_found_after_all_before_it_have_left(path: Path) -> None:
    """Numbers are given out again once the journal is empty."""
    now = [1_000_000.0]
    with opened(path, wall=lambda: now[0]) as journal:
        for number in range(1, 5):
            journal.record("s", number, [fact(number)])
        now[0] += 1_000
        while journal.prune(budget=1 << 30, older_than=10):
            pass
        assert journal.reach().rows == 0
        journal.leave(journal.ahead("s", 5, [fact(5)]))
        assert [entry.mark for entry in journal.unsettled()] == [5]
        assert journal.settle({"s": 5}) == 1
        assert [entry.mark for entry in journal.lacking({})] == [5]


# -- what a hub lacks --


def test_what_a_hub_lacks_is_what_stands_above_its_marks(path: Path) -> None:
    with opened(path) as journal:
        for number in range(1, 4):
            journal.record("s", number, [fact(number)])
            journal.record("t", number, [fact(10 + number)])
        journal.ahead("s", 4, [fact(4)])  # not acknowledged
        found = journal.lacking({"s": 1, "t": 3})
        assert [(one.stream_id, one.mark) for one in found] == [("s", 2), ("s", 3)]
        assert keys([journal.with_changes(one) for one in found]) == [["fact-2"], ["fact-3"]]
        assert len(journal.lacking({})) == 6
        journal.note_resent(one.order for one in found)
        assert journal.lacking({"s": 1, "t": 3}) == []


def test_many_entries_are_noted_in_one_look_at_the_file(path: Path) -> None:
    """Writes wait meanwhile: a look for each would take hours in a journal of a week."""
    with opened(path) as journal:
        for number in range(1, 301):
            journal.record("s", number, [fact(number)])
        orders = [one.order for one in journal.lacking({})]
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        journal._writer._file.connection.set_progress_handler(count, 10)
        journal.note_resent(orders[:1])
        one, steps = steps, 0
        journal.note_resent(orders[1:])
        journal._writer._file.connection.set_progress_handler(None, 0)
        assert journal.lacking({}) == []
        assert steps < 20 * one


def test_joined_streams_are_a_part_of_the_sum(path: Path) -> None:
    """Or stand on the hub by themselves, where that was restored to before they were joined."""
    with opened(path) as journal:
        for number in range(1, 4):
            journal.record("s", number, [fact(number)])
        journal.note_joining(["s"], "sum", 10)
        assert journal.lacking({"sum": 10}) == []
        assert journal.lacking({"sum": 7, "s": 3}) == []
        assert [one.mark for one in journal.lacking({"sum": 7, "s": 1})] == [2, 3]
        assert [one.mark for one in journal.lacking({"sum": 7})] == [1, 2, 3]


def test_an_entry_of_a_stream_that_was_joined_is_settled_by_the_sum(path: Path) -> None:
    with opened(path) as journal:
        journal.leave(journal.ahead("s", 1, [fact(1)]))
        journal.note_joining(["s"], "sum", 10)
        journal.settle({"sum": 10})
        assert [one.mark for one in journal.entries("s", 0)] == [1]


def test_a_journal_that_is_closed_writes_nothing(path: Path) -> None:
    with opened(path) as journal:
        entry = journal.ahead("s", 1, [fact(1)])
    journal.confirm(entry)
    journal.flush()
    journal.close()
    with pytest.raises(DatabaseBusy, match="is closed"):
        journal.ahead("s", 2, [fact(2)])


# -- room --


def filled(journal: Journal, entries: int = 400) -> None:
    for number in range(1, entries + 1):
        journal.record("s", number, [fact(number, "x" * 1_000)])


def test_the_oldest_leave_where_the_journal_is_too_large(path: Path) -> None:
    with opened(path) as journal:
        filled(journal)
        before = journal.reach()
        while journal.prune(budget=200_000, limit=20):
            pass
        after = journal.reach()
        assert after.bytes <= 200_000 < before.bytes
        assert path.stat().st_size < before.bytes or after.bytes < before.bytes
        kept = [entry.mark for entry in journal.entries("s", 0)]
        assert kept == list(range(401 - len(kept), 401)) and 50 < len(kept) < 400
        assert after.dropped_rows == 400 - len(kept) == 400 - after.rows
        assert before.oldest <= after.dropped_order < after.oldest


def test_the_oldest_leave_by_age_unless_they_are_in_flight(path: Path) -> None:
    now = [1_000_000.0]
    with opened(path, wall=lambda: now[0]) as journal:
        journal.record("s", 1, [fact(1)])
        now[0] += 100
        journal.ahead("s", 2, [fact(2)])
        now[0] += 1
        journal.record("t", 1, [fact(3)])
        now[0] += 50
        assert journal.prune(budget=1 << 30, older_than=120) == 1
        now[0] += 1_000
        assert journal.prune(budget=1 << 30, older_than=120) == 0
        assert [one.stream_id for one in journal.lacking({})] == ["t"]
        assert journal.reach().since == 1_000_100


def test_a_full_disk_refuses_the_entry_and_is_over_when_there_is_room(path: Path) -> None:
    with opened(path) as journal:
        journal.record("s", 1, [fact(1)])
        journal._writer._file.connection.execute("PRAGMA max_page_count=1")
        with pytest.raises(DatabaseFull, match="no room for the journal"):
            journal.ahead("s", 2, [fact(2, "x" * 100_000)])
        journal.record("s", 2, [fact(3, "x" * 100_000)])  # over a connection of its own
        assert keys(journal.entries("s", 0)) == [["fact-1"], ["fact-3"]]


def test_a_file_that_is_locked_refuses_the_entry(path: Path) -> None:
    with opened(path) as journal, contextlib.closing(sqlite3.connect(path)) as other:
        journal._writer._file.connection.execute("PRAGMA busy_timeout=0")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusy, match="cannot be used"):
            journal.ahead("s", 1, [fact(1)])
        other.execute("ROLLBACK")
        journal.record("s", 1, [fact(2)])
        assert keys(journal.lacking({}) and journal.entries("s", 0)) == [["fact-2"]]


def test_a_sync_that_failed_makes_nothing_certain_that_was_written_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second sync succeeds without what the first one lost (fsync(2))."""
    with opened(path) as journal:
        journal.record("s", 1, [fact(1)])
        one, other = (journal.write(name, 1, [fact(2, name)]) for name in ("t", "u"))

        def fail() -> None:
            monkeypatch.undo()
            raise OSError(errno.EIO, "an input/output error")

        monkeypatch.setattr(journal._writer._file, "sync", fail)
        with pytest.raises(DatabaseBusy, match="cannot be synced"):
            journal.sync(one)
        with pytest.raises(DatabaseBusy, match="cannot be synced"):
            journal.sync(other)
        journal.record("s", 2, [fact(3)])  # over a connection of its own
        for entry in (one, other):
            with pytest.raises(DatabaseBusy, match="cannot be synced"):
                journal.sync(entry)


def test_nothing_counts_as_synced_while_the_file_cannot_be_opened_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(path) as journal:
        journal.record("s", 1, [fact(1)])
        entry = journal.write("t", 1, [fact(2)])
        journal._writer._file.connection.execute("PRAGMA max_page_count=1")
        with pytest.raises(DatabaseFull):
            journal.record("s", 2, [fact(3, "x" * 100_000)])
        with monkeypatch.context() as patch:
            patch.setattr(journal._writer._file, "_open", refuse)
            with pytest.raises(DatabaseBusy, match="an input/output error"):
                journal.record("s", 2, [fact(3)])
            with pytest.raises(DatabaseBusy, match="cannot be synced"):
                journal.sync(entry)
        journal.record("s", 2, [fact(3)])
        with pytest.raises(DatabaseBusy, match="cannot be synced"):
            journal.sync(entry)


def refuse() -> None:
    raise OSError(errno.EIO, "an input/output error")


def test_what_became_of_an_entry_is_kept_where_it_cannot_be_written(path: Path) -> None:
    with opened(path) as journal, contextlib.closing(sqlite3.connect(path)) as other:
        journal.confirm(journal.ahead("s", 1, [fact(1)]))
        journal._writer._file.connection.execute("PRAGMA busy_timeout=0")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusy):
            journal.flush()
        other.execute("ROLLBACK")
        journal.flush()
        assert by_another_process(path) == [tables.CONFIRMED]


# -- files that cannot be used --


def damage(path: Path) -> None:
    path.write_bytes(b"no database at all" * 1000)


def from_another_box(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE journal_state SET node_id = ?", (OTHER_BOX,))


def newer(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA user_version=99")


@pytest.mark.parametrize("change", [damage, from_another_box, newer])
def test_a_file_that_cannot_be_used_is_set_aside_and_kept(path: Path, change: Any) -> None:
    with opened(path) as journal:
        journal.record("s", 1, [fact(1)])
    change(path)
    before = path.read_bytes()
    lines: list[str] = []
    with opened(path, set_aside=lines.append) as journal:
        assert journal.lacking({}) == []
        journal.record("s", 1, [fact(2)])
    (line,) = lines
    (aside,) = path.parent.glob(f"{path.name}.[0-9]*")
    assert aside.name in line and aside.read_bytes() == before


def test_a_file_that_another_process_uses_is_not_set_aside(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepaas.outbox.journal.opening.LOCK_TIMEOUT", 0.1)
    with opened(path):
        newer(path)
        with pytest.raises(JournalUnusable, match="another process has it open"):
            Journal(path, NODE, layouts())
        assert list(path.parent.glob(f"{path.name}.[0-9]*")) == []
