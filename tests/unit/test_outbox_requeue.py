# SPDX-License-Identifier: Apache-2.0
"""Rows that are queued again: resent, in order, all of them or none."""

import contextlib
import sqlite3
from collections.abc import Iterator

import pytest

from edgepaas.files.paths import Paths
from edgepaas.outbox import capture, ledger, stream, tables
from edgepaas.outbox.reading import next_batch
from edgepaas.outbox.requeue import QueuedChange, queue_again
from edgepaas.outbox.stream import Counts
from tests.unit.test_audit_box import DOCUMENT


@pytest.fixture
def file(paths: Paths) -> Iterator[sqlite3.Connection]:
    """The box's file with one captured table and three delivered rows."""
    with contextlib.closing(sqlite3.connect(paths.sqlite, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE facts (id TEXT PRIMARY KEY, value BIGINT)")
        capture.install(connection, DOCUMENT, node_id="1b4e28ba-2fa1-41d2-883f-0016d3cca427")
        connection.executemany("INSERT INTO facts VALUES (?, ?)", [(f"f{n}", n) for n in range(3)])
        stream.confirm(connection, "b1", 3, Counts(delivered=3))
        yield connection


def again(connection: sqlite3.Connection, *changes: QueuedChange, whole: bool = False) -> None:
    with tables.transaction(connection):
        assert queue_again(connection, changes, whole=whole) == len(changes)


def test_a_row_that_is_queued_again_is_sent_as_a_resent_one(file: sqlite3.Connection) -> None:
    again(file, QueuedChange(1, "I", ("f1", 1)))
    batch = next_batch(file, 3, rows=10)
    assert batch is not None
    (change,) = [change for chunk in batch.chunks() for change in chunk]
    assert (change.op, change.new, change.resent, change.seq) == ("insert", ("f1", 1), True, 4)
    assert ledger.read(file)["pending"] == 1


def test_changes_keep_their_order_and_may_be_one_source_transaction(
    file: sqlite3.Connection,
) -> None:
    changes = [
        QueuedChange(1, "I", ("f7", 7)),
        QueuedChange(1, "U", ("f7", 8, "f7", 7)),
        QueuedChange(1, "D", ("f7", 8)),
    ]
    again(file, *changes, whole=True)
    again(file, *changes)
    batch = next_batch(file, 3, rows=10)
    assert batch is not None
    found = [change for chunk in batch.chunks() for change in chunk]
    assert [change.op for change in found] == ["insert", "update", "delete"] * 2
    assert [change.transaction for change in found] == [4, 4, 4, 7, 8, 9]
    assert (found[1].new, found[1].old) == (("f7", 8), ("f7", 7))


def test_outside_of_a_transaction_nothing_is_queued(file: sqlite3.Connection) -> None:
    """A kill in the middle would leave a part of it."""
    with pytest.raises(RuntimeError, match="inside a transaction"):
        queue_again(file, [QueuedChange(1, "I", ("f1", 1))])
    assert ledger.read(file)["pending"] == 0


def test_nothing_to_queue_changes_nothing(file: sqlite3.Connection) -> None:
    again(file)
    assert tables.last_seq(file) == 3
