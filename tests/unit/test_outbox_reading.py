# SPDX-License-Identifier: Apache-2.0
"""Reading the outbox: whole transactions, in order, by chunks."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepaas.outbox import reading
from edgepaas.outbox.reading import key_text, next_batch, same
from tests.support.outbox import captured_file


@pytest.fixture
def file(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with captured_file(tmp_path / "edgepaas.db") as connection:
        yield connection


def fill(file: sqlite3.Connection, *sizes: int) -> None:
    """Write transactions of *sizes* rows, marked as the writer does."""
    seq = 1
    for size in sizes:
        for number in range(seq, seq + size):
            file.execute("INSERT INTO facts (id) VALUES (?)", (f"f{number}",))
        if size > 1:
            file.execute("INSERT INTO outbox_transactions VALUES (?, ?)", (seq, seq + size - 1))
        seq += size


def batches(file: sqlite3.Connection, rows: int) -> list[tuple[int, int, int]]:
    """Return first, last and rows of each batch up to the end."""
    found, after = [], 0
    while (batch := next_batch(file, after, rows=rows)) is not None:
        found.append((batch.first_seq, batch.last_seq, batch.rows))
        after = batch.last_seq
    return found


def test_nothing_waits_in_an_empty_outbox(file: sqlite3.Connection) -> None:
    assert next_batch(file, 0, rows=10) is None


@pytest.mark.parametrize(
    ("sizes", "rows", "expected"),
    [
        ((1, 1, 1, 1), 2, [(1, 2, 2), (3, 4, 2)]),
        ((2, 3, 1), 4, [(1, 2, 2), (3, 6, 4)]),
        ((2, 3, 1), 5, [(1, 5, 5), (6, 6, 1)]),
        ((1, 5, 1), 3, [(1, 1, 1), (2, 6, 5), (7, 7, 1)]),
        ((5, 5), 1, [(1, 5, 5), (6, 10, 5)]),
        ((3, 3), 100, [(1, 6, 6)]),
    ],
)
def test_a_batch_never_holds_a_part_of_a_transaction(
    sizes: tuple[int, ...],
    rows: int,
    expected: list[tuple[int, int, int]],
    file: sqlite3.Connection,
) -> None:
    fill(file, *sizes)
    assert batches(file, rows) == expected


def test_changes_know_their_transaction_across_chunks(file: sqlite3.Connection) -> None:
    fill(file, 1, 3, 1, 2, 1)
    batch = next_batch(file, 0, rows=100)
    assert batch
    for size in (1, 2, 3, 100):
        chunks = list(batch.chunks(size))
        assert max(map(len, chunks)) <= size
        found = [(change.seq, change.transaction) for chunk in chunks for change in chunk]
        assert found == [(1, 1), (2, 2), (3, 2), (4, 2), (5, 5), (6, 6), (7, 6), (8, 8)]


def test_a_batch_is_what_was_there_when_it_was_made(file: sqlite3.Connection) -> None:
    """What is written while it is being sent belongs to the next one."""
    fill(file, 1, 1)
    batch = next_batch(file, 0, rows=100)
    file.execute("INSERT INTO facts (id) VALUES ('later')")
    assert batch
    assert [change.seq for chunk in batch.chunks() for change in chunk] == [1, 2]


def test_rows_that_were_shed_are_left_out_and_their_gap_is_read(file: sqlite3.Connection) -> None:
    """Also in the middle of a transaction."""
    fill(file, 4)
    gap = {"table": "facts", "rows": 2, "ranges": [[2, 3]]}
    file.execute("DELETE FROM outbox WHERE seq IN (2, 3)")
    file.execute("INSERT INTO outbox (layout, op, v0) VALUES (0, 'G', ?)", (json.dumps(gap),))
    batch = next_batch(file, 0, rows=2)
    assert batch and (batch.first_seq, batch.last_seq, batch.rows) == (1, 4, 2)
    rest = next_batch(file, 4, rows=2)
    assert rest
    (change,) = next(iter(rest.chunks()))
    assert (change.op, change.gap, change.key, change.new) == ("gap", gap, (), None)


def test_large_values_come_few_at_a_time(file: sqlite3.Connection) -> None:
    """A thousand photographs do not fit into a drainer's memory."""
    size = reading.CHUNK_BYTES // 3
    file.execute("BEGIN")
    for number in range(10):
        row = (f"f{number}", bytes(size))
        file.execute("INSERT INTO facts (id, body) VALUES (?, ?)", row)
    file.execute("COMMIT")
    batch = next_batch(file, 0, rows=1000)
    assert batch
    chunks = list(batch.chunks())
    assert max(map(len, chunks)) == 3, "keys count as well"
    assert [change.seq for chunk in chunks for change in chunk] == list(range(1, 11))


def test_a_key_has_one_text_and_no_other_key_has_it() -> None:
    keys = [
        ("x",),
        ('"x"',),
        ("a\0b",),
        ('"a\\u0000b"',),
        (1,),
        ("[1,2]",),
        (1, 2),
        ("1", 2),
        (b"\x01\xff",),
        ('{"hex":"01ff"}',),
        (None,),
        (0.1 + 0.2,),
    ]
    texts = [key_text(key) for key in keys]
    assert len(set(texts)) == len(keys)
    assert texts[0] == "x"
    assert all("\0" not in text for text in texts), "PostgreSQL holds them as text"


def test_values_are_the_same_only_to_the_bit() -> None:
    assert same(None, None) and same("a", "a") and same(b"a", b"a") and same(1.5, 1.5)
    assert not same(1, 1.0) and not same(0.0, -0.0) and not same("a", b"a") and not same(None, 0)
