# SPDX-License-Identifier: Apache-2.0
"""Draining: every row once, whatever becomes of the answers; in order; adding up."""

import json
import threading
import uuid
from typing import Any

import pytest

from edgepaas.outbox import ledger
from edgepaas.outbox.stream import read_stream
from edgepaas.pgdriver.pipeline import Result, Statement
from edgepaas.settings.urls import split_url
from edgepaas.sync.delivery.drain import drain_batch
from edgepaas.sync.errors import HubUnreachable, SchemaDrift
from edgepaas.sync.hub.connection import Hub, connect_hub
from tests.support.forwarding import PLAIN, TestBox, TestHub


class Deaf(Hub):
    """Loses the answer to COMMIT, as a link does that breaks in that moment."""

    def commit(self, *last: Statement) -> list[Result]:
        super().commit(*last)
        self.abort()
        self.broken = True
        raise HubUnreachable("the link broke")


def test_what_was_written_is_on_the_hub_once(box: TestBox, hub: TestHub, link: Hub) -> None:
    ids = [box.samples(value)[0] for value in range(25)]
    done = box.drain_all(link, rows=10)
    assert [one.rows for one in done] == [10, 10, 5]
    assert sorted(str(row[0]) for row in hub.ask("SELECT id FROM samples")) == sorted(ids)
    assert box.adds_up(hub)["delivered"] == 25
    assert box.drain(link).rows == 0


def test_a_transaction_larger_than_a_batch_is_sent_whole(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    box.samples(*range(2500))
    box.samples(7)
    assert [one.rows for one in box.drain_all(link, rows=100)] == [2500, 1]
    assert hub.one("SELECT count(*) FROM samples") == 2501
    box.adds_up(hub)


def test_with_every_answer_to_commit_lost_each_row_arrives_once_and_in_order(
    box: TestBox, hub: TestHub
) -> None:
    place = box.place("hall", note="0")
    for number in range(1, 30):
        box.samples(number)
        box.write(f"UPDATE places SET note = '{number}' WHERE id = '{place}'")
    hub.ask(
        "CREATE TABLE seen (n serial, note text); CREATE FUNCTION see() RETURNS trigger AS "
        "'BEGIN INSERT INTO seen (note) VALUES (new.note); RETURN new; END' LANGUAGE plpgsql; "
        "CREATE TRIGGER see AFTER UPDATE OF note ON places FOR EACH ROW EXECUTE FUNCTION see()"
    )
    lost = 0
    for _ in range(100):
        with connect_hub(split_url(hub.url), tls=PLAIN) as link:
            link.__class__ = Deaf
            try:
                left = box.drain(link, rows=4).remaining
            except HubUnreachable:
                lost += 1
                continue
        if not left:
            break
    assert lost > 10
    assert hub.one("SELECT count(*) FROM samples") == 29
    notes = [int(row[0]) for row in hub.ask("SELECT note FROM seen ORDER BY n")]
    assert notes == list(range(1, 30))
    assert hub.one("SELECT count(*) FROM sync_conflicts") == 0
    assert box.adds_up(hub)["delivered"] == 59
    assert any("was committed" in line for line in box.said)
    assert not any("copy" in line for line in box.said), "it is no fork"


def test_a_link_lost_before_commit_leaves_nothing_behind(
    box: TestBox, hub: TestHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.samples(1, 2)
    link = hub.link()

    def cut(*_: Any) -> list[Result]:
        link.abort()
        return link.run([("COMMIT", ())])

    monkeypatch.setattr(link, "commit", cut)
    with pytest.raises(HubUnreachable):
        box.drain(link)
    link.close()
    assert hub.one("SELECT count(*) FROM samples") == 0
    with hub.link() as link:
        assert box.drain(link).rows == 2
    box.adds_up(hub)


def test_two_drainers_of_one_file_deliver_everything_once(box: TestBox, hub: TestHub) -> None:
    for number in range(60):
        box.samples(number)
    failures: list[BaseException] = []

    def work() -> None:
        mine = TestBox(box.path, node=box.node)
        try:
            with hub.link() as link:
                mine.drain_all(link, rows=3)
        except BaseException as error:
            failures.append(error)
        finally:
            mine.close()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert hub.one("SELECT count(*) FROM samples") == 60
    assert box.adds_up(hub)["delivered"] == 60


def test_a_predecessor_that_holds_the_stream_is_waited_for_and_then_reported(
    box: TestBox, hub: TestHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepaas.sync.hub.connection.LOCK_TIMEOUT", 0.2)
    box.samples(1)
    with hub.link() as link:
        box.drain(link)
    stream = read_stream(box.file)
    assert stream is not None
    with hub.link() as holder, hub.link() as link:
        holder.begin()
        holder.query(
            "SELECT 1 FROM sync_streams WHERE stream_id = $1::uuid FOR UPDATE", stream.stream_id
        )
        box.samples(2)
        with pytest.raises(HubUnreachable, match="55P03"):
            box.drain(link)
        holder.rollback()
        assert box.drain(link).rows == 1


def test_a_gap_is_kept_on_the_hub_and_counts_what_was_shed(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    box.samples(*range(6))
    gap = {"table": "samples", "rows": 4, "ranges": [[1, 4]], "reason": "full",
           "first_at": "a", "last_at": "b"}  # fmt: skip
    box.file.execute("BEGIN IMMEDIATE")
    box.file.execute("DELETE FROM outbox WHERE seq <= 4")
    box.file.execute("INSERT INTO outbox (layout, op, v0) VALUES (0, 'G', ?)", (json.dumps(gap),))
    ledger.add(box.file, "shed", 4)
    box.file.execute("COMMIT")
    done = box.drain(link)
    assert (done.rows, done.shed) == (3, 4)
    assert hub.ask("SELECT rows, ranges, reason FROM sync_gaps") == [[4, [[1, 4]], "full"]]
    assert box.adds_up(hub)["shed"] == 4


def test_children_and_parents_of_many_transactions_arrive_in_an_order_that_holds(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    for number in range(20):
        place = box.place(f"p{number}")
        box.write(f"INSERT INTO sensors (id, place_id) VALUES ('{uuid.uuid4()}', '{place}')")
        if number % 3 == 0:
            box.write(f"DELETE FROM sensors WHERE place_id = '{place}'")
            box.write(f"DELETE FROM places WHERE id = '{place}'")
    done = box.drain(link)
    assert (done.dead, done.conflicts, done.remaining) == (0, 0, 0)
    assert hub.one("SELECT count(*) FROM places") == 13
    assert hub.one("SELECT count(*) FROM sensors") == 13


def test_rows_that_swap_a_unique_value_arrive(box: TestBox, hub: TestHub, link: Hub) -> None:
    one, other = box.place("one"), box.place("other")
    box.drain(link)
    box.write(f"UPDATE places SET name = 'x' WHERE id = '{one}'")
    box.write(f"UPDATE places SET name = 'one' WHERE id = '{other}'")
    box.write(f"UPDATE places SET name = 'other' WHERE id = '{one}'")
    done = box.drain(link)
    assert (done.rows, done.dead, done.conflicts) == (3, 0, 0)
    assert hub.ask("SELECT name FROM places ORDER BY name") == [["one"], ["other"]]
    assert str(hub.one("SELECT id FROM places WHERE name = 'other'")) == one


def test_an_older_layout_takes_the_hubs_defaults_and_drops_what_nobody_knows(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    box.samples(1.0, text="gone")
    hub.ask("ALTER TABLE samples ADD COLUMN fresh int NOT NULL DEFAULT 7")
    hub.ask("ALTER TABLE samples DROP COLUMN text")
    models = {"samples": {"columns": [{"name": "id"}, {"name": "value"}, {"name": "fresh"}]}}
    done = drain_batch(box.file, link, rows=100, log=box.said.append, models=models)
    assert done.rows == 1
    assert hub.ask("SELECT value, fresh FROM samples") == [[1.0, 7]]


def test_a_column_that_the_hub_lacks_blocks_until_it_is_there(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    hub.ask("ALTER TABLE samples DROP COLUMN text")
    box.samples(1.0, text="here")
    with pytest.raises(SchemaDrift, match=r"samples has no text.*schema --hub"):
        box.drain(link)
    hub.ask("ALTER TABLE samples ADD COLUMN text varchar(50)")
    assert box.drain(link).rows == 1, "the same connection looks again by itself"
    assert hub.one("SELECT text FROM samples") == "here"
    box.adds_up(hub)


def test_a_column_that_demands_a_value_blocks_instead_of_refusing_every_row(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    hub.ask("ALTER TABLE samples ADD COLUMN needed int NOT NULL")
    box.samples(1.0)
    with pytest.raises(SchemaDrift, match=r"samples\.needed requires a value"):
        box.drain(link)
    assert hub.one("SELECT count(*) FROM sync_dead_letters") == 0


def test_a_hub_whose_tables_changed_meanwhile_is_looked_at_again(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    box.samples(1.0)
    box.drain(link)
    hub.ask("ALTER TABLE samples DROP COLUMN value")
    hub.ask("ALTER TABLE samples ADD COLUMN value double precision")
    hub.ask("ALTER TABLE samples ALTER COLUMN text TYPE text")
    box.samples(2.0)
    assert box.drain(link).rows == 1
