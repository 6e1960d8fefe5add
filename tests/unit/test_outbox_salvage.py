# SPDX-License-Identifier: Apache-2.0
"""What a damaged file holds for the hub is read around the damage, or page by page."""

import contextlib
import json
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.outbox import ledger, stream
from edgepaas.outbox.reading import Change
from edgepaas.outbox.salvage.salvage import Salvaged, salvage
from edgepaas.outbox.tables import transaction
from tests.support.outbox import captured_file, changes, document, exact

_PAGE = 4096
#: Of so many facts the first ones are confirmed.
_FACTS, _CONFIRMED = 2000, 200


def fact(number: int) -> tuple[Any, ...]:
    """Values of every storage class: on a page of its own, over several pages, no UTF-8."""
    body = bytes([number % 256]) * (9000 if number % 50 == 0 else number % 40)
    value = (float("inf"), -0.0, 0.1 + 0.2, None, 1e300)[number % 5]
    return (f"id-{number:06d}", value, (1 << 62) - number, body, f"t\0{number} ä\U0001f600")


def fill(connection: sqlite3.Connection, numbers: range) -> None:
    """Write facts, ten in a transaction."""
    for start in range(numbers.start, numbers.stop, 10):
        with transaction(connection):
            first = connection.execute("SELECT coalesce(max(seq), 0) + 1 FROM outbox").fetchone()[0]
            connection.executemany(
                "INSERT INTO facts VALUES (?, ?, ?, ?, ?)",
                [fact(n) for n in range(start, min(start + 10, numbers.stop))],
            )
            last = connection.execute("SELECT max(seq) FROM outbox").fetchone()[0]
            connection.execute("INSERT INTO outbox_transactions VALUES (?, ?)", (first, last))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a box that lost its power: the last facts are only in its -wal."""
    folder = tmp_path_factory.mktemp("sound")
    with captured_file(folder / "box.db") as connection:
        fill(connection, range(_FACTS - 100))
        connection.execute("UPDATE facts SET text = CAST(x'ff00c3' AS TEXT) WHERE id = 'id-000300'")
        connection.execute("DELETE FROM facts WHERE id = 'id-000301'")
        connection.execute("INSERT INTO parents VALUES ('p', 'press', NULL, '{}')")
        stream.confirm(connection, "b", _CONFIRMED, stream.Counts(delivered=_CONFIRMED))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        fill(connection, range(_FACTS - 100, _FACTS))
        kept = folder / "kept"
        kept.mkdir()
        for file in folder.glob("box.db*"):
            shutil.copy(file, kept / file.name)
    return kept / "box.db"


@pytest.fixture(scope="module")
def waiting(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Change]:
    """What the sound file's outbox holds for the hub."""
    copy = copied(sound, tmp_path_factory.mktemp("copy"))
    with contextlib.closing(open_sqlite(copy)) as connection:
        return changes(connection, _CONFIRMED)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The file that took the damaged one's place."""
    (tmp_path / "fresh").mkdir()
    with captured_file(tmp_path / "fresh" / "box.db") as connection:
        connection.execute("INSERT INTO parents VALUES ('new', 'first', NULL, '{}')")
        yield connection


def copied(path: Path, folder: Path) -> Path:
    """Copy the file with what lies beside it."""
    for file in path.parent.iterdir():
        shutil.copy(file, folder / file.name)
    return folder / path.name


def overwrite(path: Path, place: int, data: bytes) -> None:
    """Damage *path*."""
    with path.open("r+b") as file:
        file.seek(place)
        file.write(data)


def contents(found: list[Change]) -> list[tuple[Any, ...]]:
    """Everything that matters of changes, to the bit."""
    return [
        (
            c.op,
            c.layout.table,
            c.layout.names,
            *(exact(v) for v in (*(c.new or ()), *(c.old or ()))),
        )
        for c in found
    ]


def saved(connection: sqlite3.Connection, result: Salvaged) -> list[Change]:
    """Return what came out of the damaged file's outbox; the first change was there before."""
    found = changes(connection, 1)
    assert len(found) == result.rows + result.again
    assert all(change.resent for change in found)
    return found[: result.rows]


def root_of(path: Path, table: str) -> int:
    """Return where the root of *table* lies in the file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)
        ).fetchone()
    return (int(page) - 1) * _PAGE


def test_a_sound_file_gives_all_that_waits_to_the_bit(
    sound: Path, waiting: list[Change], fresh: sqlite3.Connection, tmp_path: Path
) -> None:
    """As one stream, whole transactions as they were, and nothing that was delivered."""
    damaged = copied(sound, tmp_path)
    before = damaged.read_bytes()
    result = salvage(damaged, fresh, document())
    assert result == Salvaged(len(waiting), 0, 0, False)
    found = saved(fresh, result)
    assert contents(found) == contents(waiting)
    assert [c.seq - c.transaction for c in found] == [c.seq - c.transaction for c in waiting]
    counters = ledger.read(fresh)
    assert (counters["salvaged"], counters["lost_in_damage"]) == (len(waiting), 0)
    assert counters["accepted"] == counters["pending"] == len(waiting) + 1
    assert damaged.read_bytes() == before
    assert list(tmp_path.glob("fresh/.*")) == []


def test_done_twice_it_counts_once(sound: Path, fresh: sqlite3.Connection, tmp_path: Path) -> None:
    """A power cut may come before it is noted that it is done."""
    damaged = copied(sound, tmp_path)
    first = salvage(damaged, fresh, document())
    assert salvage(damaged, fresh, document()) == first
    assert ledger.read(fresh)["salvaged"] == first.rows


@pytest.mark.parametrize("what", ["header", "outbox", "outbox_layouts", "outbox_state", "facts"])
def test_without_its_most_important_pages_nothing_is_lost(
    what: str, sound: Path, waiting: list[Change], fresh: sqlite3.Connection, tmp_path: Path
) -> None:
    """SQLite finds no way to the rows then; their own pages are there."""
    damaged = copied(sound, tmp_path)
    place = 0 if what == "header" else root_of(copied(sound, _folder(tmp_path, "other")), what)
    overwrite(damaged, place, bytes(_PAGE))
    result = salvage(damaged, fresh, document())
    found = contents(saved(fresh, result))
    # Without the state it is not known what was delivered: that is sent again.
    assert found[-len(waiting) :] == contents(waiting)
    assert result.lost == 0
    assert len(found) == len(waiting) + (_CONFIRMED if what == "outbox_state" else 0)


def _folder(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


def test_whatever_is_overwritten_each_row_is_saved_or_counted(
    sound: Path, waiting: list[Change], tmp_path: Path
) -> None:
    """Blocks of noise at many places of file and -wal; no row comes out that was never there."""
    noise = random.Random(5)
    originals = {row[3]: row for row in contents(waiting)}
    for attempt in range(12):
        folder = _folder(tmp_path, str(attempt))
        damaged = copied(sound, _folder(folder, "old"))
        for _ in range(noise.choice((1, 1, 5))):
            target = noise.choice((damaged, damaged, damaged.with_name("box.db-wal")))
            size = noise.choice((1, 512, _PAGE, 16 * _PAGE))
            place = noise.randrange(0, target.stat().st_size - size) // size * size
            overwrite(target, place, noise.randbytes(size))
        with captured_file(folder / "box.db") as connection:
            result = salvage(damaged, connection, document())
            found = changes(connection)[: result.rows]
            if not result.uncertain:
                assert result.rows + result.lost == len(waiting), attempt
            keys = {
                exact(c.key[0]) for c in found if c.op == "insert" and c.layout.table == "facts"
            }
            assert len(keys) >= len(originals) // 3, attempt


def test_noise_in_one_page_costs_no_more_than_its_rows(
    sound: Path, waiting: list[Change], fresh: sqlite3.Connection, tmp_path: Path
) -> None:
    """And what it costs is in the tables themselves, whose rows are sent again then."""
    damaged = copied(sound, tmp_path)
    data = damaged.read_bytes()
    leaves = [
        page
        for page in range(1, len(data) // _PAGE)
        if data[page * _PAGE] == 13 and b"id-001" in data[page * _PAGE : (page + 1) * _PAGE]
    ]
    originals = contents(waiting)
    overwrite(damaged, leaves[len(leaves) // 2] * _PAGE, random.Random(1).randbytes(_PAGE))
    overwrite(damaged, root_of(copied(sound, _folder(tmp_path, "x")), "outbox_batches"), b"\0" * 99)
    result = salvage(damaged, fresh, document())
    found = contents(saved(fresh, result))
    assert set(found) <= set(originals)
    assert len(found) + result.lost == len(originals)
    assert result.lost <= 60
    if result.lost:
        keys = {change.key for change in changes(fresh) if change.op == "insert"}
        assert len(keys) >= _FACTS - _CONFIRMED
    assert f"{result.rows:,} rows" in result.line


def test_rows_of_a_file_that_never_captured_are_sent(
    fresh: sqlite3.Connection, tmp_path: Path
) -> None:
    """It was set aside when there was no hub: its rows would have been the baseline."""
    from tests.support.outbox import create_file

    (tmp_path / "old").mkdir()
    damaged = tmp_path / "old" / "box.db"
    create_file(damaged)
    with contextlib.closing(open_sqlite(damaged)) as connection:
        connection.executemany("INSERT INTO facts VALUES (?, ?, ?, ?, ?)", [fact(1), fact(2)])
        connection.execute("INSERT INTO notes VALUES (1, 'stays')")
    result = salvage(damaged, fresh, document())
    assert (result.rows, result.again, result.lost) == (0, 2, 0)
    assert [c.key for c in changes(fresh, 1)] == [("id-000001",), ("id-000002",)]


def test_a_file_of_noise_says_that_it_is_uncertain(
    fresh: sqlite3.Connection, tmp_path: Path
) -> None:
    """Nothing is known of it."""
    (tmp_path / "old").mkdir()
    damaged = tmp_path / "old" / "box.db"
    for data in (random.Random(2).randbytes(10 * _PAGE), b"", b"x"):
        damaged.write_bytes(data)
        fresh.execute("DELETE FROM outbox_salvaged") if data == b"" else None
        result = salvage(damaged.rename(damaged.with_name(f"{len(data)}.db")), fresh, document())
        assert (result.rows, result.again, result.uncertain) == (0, 0, True)
        assert "cannot be read" in result.line


def test_rows_that_were_shed_are_not_missed(fresh: sqlite3.Connection, tmp_path: Path) -> None:
    """A gap row names them; it goes along, without the numbers of a stream that is over."""
    (tmp_path / "old").mkdir()
    damaged = tmp_path / "old" / "box.db"
    with captured_file(damaged) as connection:
        fill(connection, range(20))
        gap = {"table": "facts", "rows": 5, "ranges": [[3, 7]], "reason": "full"}
        connection.execute("DELETE FROM outbox WHERE seq BETWEEN 3 AND 7")
        connection.execute(
            "INSERT INTO outbox (layout, op, v0) VALUES (0, 'G', ?)", (json.dumps(gap),)
        )
    result = salvage(damaged, fresh, document())
    assert (result.rows, result.lost, result.uncertain) == (16, 0, False)
    (found,) = [change for change in changes(fresh) if change.op == "gap"]
    assert found.gap is not None
    assert (found.gap["rows"], found.gap["ranges"], found.gap["was"]) == (5, [], [[3, 7]])
    assert ledger.pending(fresh) == 17


def test_no_time_is_no_endless_boot(
    sound: Path, waiting: list[Change], fresh: sqlite3.Connection, tmp_path: Path
) -> None:
    """What was not reached in time counts as lost."""
    damaged = copied(sound, tmp_path)
    result = salvage(damaged, fresh, document(), seconds=-1)
    assert result.rows == 0
    assert result.lost == len(waiting)
