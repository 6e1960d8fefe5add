# SPDX-License-Identifier: Apache-2.0
"""The stream's marks, forks and rewinds, retention and the ledger: every row accounted for."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.decision import waiting as decision_waiting
from edgepaas.decision.waiting import is_sound_and_empty, rows_waiting
from edgepaas.outbox import ledger, sequence_gaps, stream, tables
from edgepaas.outbox.space import vacuum
from edgepaas.outbox.space.retention import reclaim
from edgepaas.outbox.stream import Counts
from tests.support.outbox import captured_file, changes, create_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "edgepaas.db"


@pytest.fixture
def file(path: Path) -> Iterator[sqlite3.Connection]:
    with captured_file(path) as connection:
        yield connection


def fill(file: sqlite3.Connection, count: int, name: str = "f") -> None:
    """Write *count* facts, each captured as one row."""
    file.execute("BEGIN IMMEDIATE")
    file.executemany(
        "INSERT INTO facts (id, text) VALUES (?, ?)",
        [(f"{name}{n}", "x" * 50) for n in range(count)],
    )
    file.execute("COMMIT")


def shed(file: sqlite3.Connection, first: int, last: int) -> None:
    """Give rows up as the budget does: a gap row takes the place of their numbers."""
    file.execute("BEGIN IMMEDIATE")
    file.execute("DELETE FROM outbox WHERE seq BETWEEN ? AND ?", (first, last))
    gap = {"table": "facts", "rows": last - first + 1, "ranges": [[first, last]]}
    file.execute("INSERT INTO outbox (layout, op, v0) VALUES (0, 'G', ?)", (json.dumps(gap),))
    ledger.add(file, "shed", last - first + 1)
    file.execute("COMMIT")


def adds_up(file: sqlite3.Connection) -> dict[str, int]:
    """Return the ledger, having checked that each accepted row is in one place."""
    found = ledger.read(file)
    assert found["accepted"] == (
        found["delivered"] + found["dead"] + found["shed"] + found["pending"]
    ), found
    return found


def test_what_is_confirmed_no_longer_waits_and_counts_once(
    path: Path, file: sqlite3.Connection
) -> None:
    """A confirmation that is repeated after a crash changes nothing."""
    fill(file, 10)
    stream.set_inflight(file, "b1", 6)
    found = stream.read_stream(file)
    assert found and (found.inflight_batch, found.inflight_seq) == ("b1", 6)
    for _ in range(2):
        stream.confirm(file, "b1", 6, Counts(delivered=5, dead=1, conflicts=2))
    found = stream.read_stream(file)
    assert found and (found.confirmed_seq, found.confirmed_batch) == (6, "b1")
    assert (found.inflight_batch, found.last_seq) == ("", 10)
    counted = adds_up(file)
    assert [counted[name] for name in ("accepted", "delivered", "dead", "conflicts")] == [
        10,
        5,
        1,
        2,
    ]
    assert ledger.pending(file) == 4 == rows_waiting(path).rows
    assert [change.seq for change in changes(file, 6)] == [7, 8, 9, 10]


def test_an_outbox_that_waits_for_nobody_is_not_content(
    path: Path, file: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the decision: an empty file with capture holds nothing; what waits is counted."""
    assert is_sound_and_empty(path)
    fill(file, 5)
    file.execute("DELETE FROM facts")
    assert not is_sound_and_empty(path)
    assert rows_waiting(path).rows == 10
    monkeypatch.setattr(decision_waiting, "_COUNTED_ROWS", 3)
    assert rows_waiting(path).rows == 10
    stream.confirm(file, "b1", 10, Counts(10))
    assert rows_waiting(path) == decision_waiting.Waiting()
    assert is_sound_and_empty(path)


def test_many_rows_are_counted_by_their_numbers(
    path: Path, file: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when some were shed, and when the hub went back behind what retention took."""
    monkeypatch.setattr(ledger, "_COUNTED", 3)
    fill(file, 100)
    shed(file, 11, 30)
    assert ledger.pending(file) == 81
    stream.confirm(file, "b1", 20, Counts(10))
    assert ledger.pending(file) == 71
    stream.confirm(file, "b2", 40, Counts(10))
    assert ledger.pending(file) == 61
    adds_up(file)
    assert reclaim(file, older_than=-1).rows == 20
    assert stream.rewind(file, 5) == 15
    assert ledger.pending(file) == 61
    assert stream.read_stream(file).confirmed_seq == 5  # type: ignore[union-attr]


def test_a_fork_numbers_anew_what_waits(file: sqlite3.Connection) -> None:
    """In order, with its transactions and gaps, above every number that was ever used."""
    fill(file, 6)
    file.execute("INSERT INTO outbox_transactions VALUES (3, 5)")
    shed(file, 4, 4)
    stream.confirm(file, "b1", 2, Counts(2))
    before = changes(file, 2)
    old = stream.read_stream(file)
    new = stream.fork(file, "for a test")
    after = changes(file, new.confirmed_seq)
    assert old and new.stream_id != old.stream_id == new.forked_from
    assert (new.base_seq, new.confirmed_seq, new.confirmed_batch) == (7, 7, "")
    assert [change.seq - 5 for change in after] == [change.seq for change in before]
    assert [change.key for change in after] == [change.key for change in before]
    assert [change.transaction for change in after] == [8, 8, 11, 12]
    assert all(change.resent for change in after)
    assert after[-1].gap and after[-1].gap["ranges"] == [[9, 9]]
    assert adds_up(file)["forks"] == 1
    fill(file, 1, "later")
    assert changes(file, new.base_seq)[-1].seq == new.last_seq + 1
    assert not changes(file)[-1].resent
    adds_up(file)
    stream.fork(file, "with nothing")
    adds_up(file)


def test_a_hub_that_went_back_is_sent_again_what_is_left(file: sqlite3.Connection) -> None:
    """And what retention took is counted as lost to it."""
    fill(file, 12)
    stream.confirm(file, "b1", 3, Counts(3))
    stream.confirm(file, "b2", 6, Counts(2, dead=1))
    assert reclaim(file, older_than=-1, limit=6).rows == 6
    stream.confirm(file, "b3", 9, Counts(2, dead=1, conflicts=1))
    assert stream.rewind(file, 9) == 0, "the hub has all of it"
    assert stream.rewind(file, 3, "b1") == 3
    found = stream.read_stream(file)
    assert found and (found.confirmed_seq, found.confirmed_batch) == (3, "b1")
    assert [(c.seq, c.resent) for c in changes(file, 3)] == [
        *((seq, True) for seq in (7, 8, 9)),
        *((seq, False) for seq in (10, 11, 12)),
    ]
    counted = adds_up(file)
    assert [counted[name] for name in ("pending", "dead", "conflicts", "hub_lost")] == [6, 1, 0, 3]


def test_numbers_that_nobody_has_are_explained_through_forks_and_losses(
    file: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was lost counts once, and is known under its new numbers after a fork."""
    fill(file, 10)
    stream.confirm(file, "b1", 4, Counts(4))
    stream.confirm(file, "b2", 8, Counts(4))
    assert reclaim(file, older_than=-1).rows == 8
    assert stream.rewind(file, 6, "b") == 2
    assert stream.rewind(file, 4, "b1") == 2, "7 and 8 are counted already"
    assert sequence_gaps.ranges(file, lost=True) == [(5, 6), (7, 8)]
    stream.fork(file, "a test")
    assert sequence_gaps.ranges(file, lost=True) == [(11, 12), (13, 14)]
    assert sequence_gaps.ranges(file, lost=False) == [(5, 10)]
    monkeypatch.setattr(ledger, "_COUNTED", 2)
    assert adds_up(file)["pending"] == 2
    assert list(sequence_gaps.unexplained(file, 5, 16)) == []
    assert stream.rewind(file, 0) == 4, "a hub that knows nothing at all"
    assert adds_up(file)["hub_lost"] == 8
    found = stream.read_stream(file)
    assert found and (found.base_seq, found.confirmed_seq) == (0, 0)
    assert list(sequence_gaps.unexplained(file, 1, 16)) == []
    file.execute("DELETE FROM outbox WHERE seq = 15")
    assert list(sequence_gaps.unexplained(file, 1, 16)) == [(15, 15)]


def test_delivered_facts_leave_and_nothing_else(path: Path, file: sqlite3.Connection) -> None:
    """Not what waits, not what was delivered of late, no shared row; and nothing is captured."""
    file.execute("INSERT INTO parents VALUES ('p', 'p', NULL, '{}')")
    fill(file, 5)
    stream.confirm(file, "b1", 4, Counts(4))
    assert reclaim(file, older_than=3600).rows == 0
    last = tables.last_seq(file)
    done = reclaim(file, older_than=-1)
    assert (done.rows, done.facts) == (4, 3)
    assert [row[0] for row in file.execute("SELECT id FROM facts")] == ["f3", "f4"]
    assert file.execute("SELECT count(*) FROM parents").fetchone() == (1,)
    assert [change.seq for change in changes(file)] == [5, 6]
    assert tables.last_seq(file) == last
    stream.confirm(file, "b2", 6, Counts(2))
    assert reclaim(file, older_than=-1).facts == 2
    fill(file, 1, "new")
    assert changes(file)[0].seq == 7, "a number is not given out again"
    assert adds_up(file)["reclaimed"] == 6


def test_reclaiming_goes_in_steps_of_whole_batches(file: sqlite3.Connection) -> None:
    """Each is a short transaction, since writers wait for it."""
    for number in range(5):
        fill(file, 10, f"b{number}-")
        stream.confirm(file, f"b{number}", (number + 1) * 10, Counts(9, dead=1))
    assert [reclaim(file, older_than=-1, limit=25).rows for _ in range(4)] == [20, 20, 10, 0]


def test_confirming_often_does_not_fill_the_file(file: sqlite3.Connection) -> None:
    """Batches of one minute share an entry; one with dead rows keeps its own."""
    for number in range(50):
        fill(file, 1, f"b{number}-")
        dead = int(number == 20)
        stream.confirm(file, f"b{number}", number + 1, Counts(1 - dead, dead=dead))
    assert file.execute("SELECT count(*) FROM outbox_batches").fetchone()[0] <= 5
    assert file.execute("SELECT sum(rows), sum(dead) FROM outbox_batches").fetchone() == (50, 1)


def test_reclaimed_space_goes_back_to_the_file_system(tmp_path: Path) -> None:
    """The file really becomes smaller, and a new one is made for that from the start."""
    path = tmp_path / "edgepaas.db"
    with contextlib.closing(open_sqlite(path, create=True)) as connection:
        vacuum.prepare(connection)
        assert vacuum.is_prepared(connection)
    with captured_file(path) as file:
        assert vacuum.is_prepared(file)
        fill(file, 5000)
        stream.confirm(file, "b1", 5000, Counts(5000))
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        before = path.stat().st_size
        done = reclaim(file, older_than=-1)
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        assert done.rows == 5000
        assert done.bytes > before / 2
        assert path.stat().st_size == before - done.bytes
        assert vacuum.release(file) == 0


def test_an_older_file_is_converted_within_its_bound_or_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "edgepaas.db"
    create_file(path)
    with contextlib.closing(open_sqlite(path)) as file:
        fill(file, 3000)
        assert vacuum.release(file) == 0
        assert not vacuum.convert(file, seconds=0.001), "too large to be begun"
        with monkeypatch.context() as patched:
            patched.setattr(vacuum, "_SLOWEST", 10**15)
            assert not vacuum.convert(file, seconds=1e-6), "given up in the midst of it"
        assert not vacuum.is_prepared(file)
        assert file.execute("SELECT count(*) FROM facts").fetchone() == (3000,)
        assert vacuum.convert(file, seconds=60)
        file.execute("DELETE FROM facts")
        assert 0 < vacuum.release(file, limit=10_000) <= 3 * 4096
        assert vacuum.release(file) > 0
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_the_ledger_knows_its_counters(file: sqlite3.Connection) -> None:
    ledger.add(file, "salvaged", 2)
    ledger.add(file, "salvaged", -1)
    assert ledger.read(file)["salvaged"] == 1
    with pytest.raises(ValueError, match="no counter salvage: it has delivered"):
        ledger.add(file, "salvage", 1)
