# SPDX-License-Identifier: Apache-2.0
"""The ledger from both sides, on a real PostgreSQL: what adds up, and each way it may not."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from edgepaas.files.paths import Paths
from edgepaas.outbox.space import retention, shedding
from tests.support.both_sides import BothSides
from tests.support.databases import adding, open_embedded, reading


class Both(BothSides):
    """Whose ledger is audited."""

    def write(self, count: int, first: int = 0) -> None:
        """Store readings."""
        database = open_embedded(self.paths.sqlite)
        try:
            database.write(adding(*(reading(float(first + n)) for n in range(count))))
        finally:
            database.close()

    def audit(self, *options: str) -> int:
        """Run the command; what it prints is in ``said``."""
        return self.command("audit", *options)


@pytest.fixture
def both(paths: Paths, postgres_url: str, capsys: pytest.CaptureFixture[str]) -> Iterator[Both]:
    with Both.opened(paths, postgres_url, capsys) as found:
        yield found


def test_nothing_half_and_all_delivered_add_up(both: Both) -> None:
    """At every moment, and key by key."""
    assert both.audit("--deep") == 0
    both.write(5)
    assert both.audit("--deep") == 0
    both.drain()
    both.write(2, first=5)
    assert both.audit("--deep", "--json") == 0
    found = json.loads(both.said)
    assert found["adds_up"]
    assert found["complete"]
    assert found["box"]["pending"] == 2
    assert found["compared"]["checked"] == 5
    assert found["hub"]["totals"]["rows"] == found["box"]["delivered"]


def test_given_up_rows_are_counted_on_both_sides(both: Both) -> None:
    """By the gap row that travels like any other."""
    both.write(10)
    assert shedding.shed(both.connection, [shedding.LowValue("readings", "value", "4.0")])
    assert both.audit() == 0
    both.drain()
    assert both.audit("--deep", "--json") == 0
    found = json.loads(both.said)
    assert (found["box"]["shed"], found["hub"]["totals"]["shed"]) == (1, 1)


def test_rows_that_a_restored_hub_lost_for_good_do_not_add_up_until_acknowledged(
    both: Both,
) -> None:
    """Each counts once, also when the same backup is put back again; lost they are ever after."""
    both.write(4)
    both.drain()
    ((batch, mark, rows),) = both.hub.query("SELECT batch::text, mark, rows FROM sync_streams")
    both.write(6, first=4)
    both.drain()
    assert retention.reclaim(both.connection, older_than=0).rows == 10
    for first in (10, 12):
        both.hub.query(
            f"UPDATE sync_streams SET batch = '{batch}', mark = {mark}, rows = {rows}, "
            f"batch_rows = {rows}"
        )
        both.hub.query("DELETE FROM readings WHERE value >= 4")
        both.drain()
        assert both.audit("--deep") == (1 if first == 10 else 0), both.said
        both.write(2, first=first)
        both.drain()
        status = both.audit("--deep", "--json")
        found = json.loads(both.said)
        assert status == (1 if first == 10 else 0), both.said
        assert (found["box"]["hub_lost"], found["box"]["lost"]) == (6, [[mark + 1, mark + 6]])
        assert (found["not_in_place"], len(found["discrepancies"])) == (6, status)
        assert both.command("sync", "acknowledge") == 0
    assert both.audit() == 0
    assert "6 rows that PostgreSQL had confirmed, and lost (6 of them acknowledged" in both.said
    assert "it adds up, but for 6 rows that are not in place" in both.said


#: What is done to the hub, what undoes it, and what the audit says of it.
_HARM = (
    (
        "UPDATE readings SET id = gen_random_uuid() WHERE value = 3",
        None,
        "1 rows that PostgreSQL had are not there, among them readings ",
    ),
    (
        "UPDATE sync_streams SET mark = mark - 1",
        "UPDATE sync_streams SET mark = mark + 1",
        "PostgreSQL's mark of the stream",
    ),
    (
        "UPDATE sync_streams SET rows = rows + 1",
        "UPDATE sync_streams SET rows = rows - 1",
        "up to 11 the box sent 11 rows; PostgreSQL counted 12 applied",
    ),
    (
        "UPDATE sync_streams SET rows = rows - 1, dead = dead + 1",
        "UPDATE sync_streams SET rows = rows + 1, dead = dead - 1",
        "PostgreSQL counts 1 dead letters of the stream",
    ),
    (
        "UPDATE sync_streams SET conflicts = 2",
        "UPDATE sync_streams SET conflicts = 0",
        "PostgreSQL counts 2 conflicts of the stream",
    ),
    (
        "UPDATE sync_streams SET stream_id = gen_random_uuid()",
        None,
        "PostgreSQL does not know the stream",
    ),
    ("ALTER TABLE sync_streams RENAME TO gone", None, "PostgreSQL has no table sync_streams"),
)


def test_each_way_not_to_add_up_is_found_and_named(both: Both) -> None:
    """Status 1, with the discrepancy in a line of its own."""
    both.write(11)
    both.drain()
    assert both.audit("--deep") == 0
    for harm, undo, said in _HARM:
        both.hub.query(harm)
        assert both.audit("--deep") == 1, harm
        assert said in both.said
        assert "it does not add up" in both.said
        if undo is not None:
            both.hub.query(undo)


def test_a_fact_that_the_hub_deleted_as_told_is_accounted_for(both: Both) -> None:
    """A tombstone, a dead letter or a conflict says why it is not there."""
    both.write(4)
    both.drain()
    ((key,),) = both.hub.query("SELECT id::text FROM readings WHERE value = 2")
    both.hub.query("DELETE FROM readings WHERE value = 2")
    ((stream, node),) = both.hub.query("SELECT stream_id::text, node_id::text FROM sync_streams")
    both.hub.query(
        "INSERT INTO sync_tombstones (tbl, row_key, node_id, stream_id, seq) "
        "VALUES ('readings', $1, $2::text::uuid, $3::text::uuid, 1)",
        key,
        node,
        stream,
    )
    assert both.audit("--deep", "--json") == 0
    found = json.loads(both.said)
    assert (found["compared"]["deleted"], found["not_in_place"]) == (1, 1)


def test_a_batch_whose_commit_was_not_answered_adds_up(both: Both) -> None:
    """The hub's mark is then the one in flight."""
    both.write(5)
    both.drain()
    both.write(3, first=5)
    before: Any = both.connection.execute("SELECT * FROM outbox_state").fetchone()
    names = [row[1] for row in both.connection.execute("PRAGMA table_info(outbox_state)")]
    ledger = dict(both.connection.execute("SELECT name, value FROM outbox_ledger").fetchall())
    both.drain()
    ((batch, mark),) = both.hub.query("SELECT batch::text, mark FROM sync_streams")
    state = dict(zip(names, before, strict=True)) | {"inflight_batch": batch, "inflight_seq": mark}
    for name, value in state.items():
        both.connection.execute(f"UPDATE outbox_state SET {name} = ?", (value,))
    for name, value in ledger.items():
        both.connection.execute("UPDATE outbox_ledger SET value = ? WHERE name = ?", (value, name))
    assert both.audit("--deep") == 0, both.said
