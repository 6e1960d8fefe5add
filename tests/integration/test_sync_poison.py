# SPDX-License-Identifier: Apache-2.0
"""Rows that PostgreSQL refuses: cut out with their followers, kept, retried, discarded."""

import uuid
from typing import Any

import pytest

from edgepaas.sync.delivery import dead_letters, values
from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.inspect import Entry, list_entries
from tests.support.forwarding import TestBox, TestHub

REFUSE_13 = "ALTER TABLE samples ADD CONSTRAINT no_13 CHECK (value <> 13)"


def waiting(link: Hub, node_id: str = "") -> list[Entry]:
    return list_entries(link, "dead-letters", node_id=node_id)


def letters(hub: TestHub) -> list[list[Any]]:
    return hub.ask(
        "SELECT tbl, op, sqlstate, new->>'value', state FROM sync_dead_letters ORDER BY seq"
    )


@pytest.fixture
def alerts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    raised: list[str] = []
    monkeypatch.setattr(
        "edgepaas.alerts.catalogue_entry.raise_alert",
        lambda message, *, fingerprint, **_: raised.append(f"{fingerprint}: {message}"),
    )
    return raised


def test_of_500_rows_one_bad_one_is_kept_and_499_land(
    box: TestBox, hub: TestHub, link: Hub, alerts: list[str]
) -> None:
    hub.ask(REFUSE_13)
    box.samples(*(13 if n == 317 else n + 0.5 for n in range(500)))
    done = box.drain(link)
    assert (done.rows, done.dead, done.remaining) == (499, 1, 0)
    assert hub.one("SELECT count(*) FROM samples") == 499
    assert letters(hub) == [["samples", "insert", "23514", "13.0", "waiting"]]
    assert "no_13" in hub.one("SELECT message FROM sync_dead_letters")
    (alert,) = alerts
    assert alert.startswith("sync-dead-letters: PostgreSQL refused 1 row")
    assert box.adds_up(hub)["dead"] == 1


def test_a_bad_row_takes_its_followers_along_in_this_batch_and_in_later_ones(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    hub.ask("ALTER TABLE places ADD CHECK (note <> 'bad')")
    good = box.place("good")
    bad = box.place("bad", note="fine")
    box.drain(link)
    box.write(f"UPDATE places SET note = 'bad' WHERE id = '{bad}'")
    box.write(f"UPDATE places SET labels = '1' WHERE id = '{bad}'")
    box.write("UPDATE places SET note = 'kept'")
    done = box.drain(link)
    assert (done.rows, done.dead) == (1, 3)
    box.write("UPDATE places SET note = 'later'")
    done = box.drain(link)
    assert (done.rows, done.dead) == (1, 1), "in a later batch, too"
    assert hub.ask("SELECT id::text, note FROM places ORDER BY name") == [
        [bad, "fine"],
        [good, "later"],
    ]
    states = hub.ask("SELECT sqlstate, row_key FROM sync_dead_letters ORDER BY seq")
    assert states == [["23514", bad], ["", bad], ["", bad], ["", bad]]
    assert box.adds_up(hub)["dead"] == 4


def test_values_that_postgresql_cannot_hold_are_kept_to_the_bit(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    box.write("INSERT INTO samples (id, text) VALUES (?, ?)", (str(uuid.uuid4()), "a\0b"))
    box.write(f"INSERT INTO samples (id, text) VALUES ('{uuid.uuid4()}', CAST(x'ff41' AS TEXT))")
    box.write("INSERT INTO samples (id, text) VALUES (?, ?)", (str(uuid.uuid4()), b"\x00\x01"))
    box.write("INSERT INTO samples (id, text) VALUES (?, ?)", ("no uuid", "x"))
    box.write("INSERT INTO samples (id, text) VALUES (?, ?)", (str(uuid.uuid4()), "y" * 51))
    box.samples(1)
    done = box.drain(link)
    assert (done.rows, done.dead) == (1, 5)
    found = [one.details for one in waiting(link)]
    assert [values.decode(one["new"]["text"]) for one in found] == [
        *("a\0b", "\udcffA", b"\x00\x01", "x", "y" * 51)
    ]
    assert [one["sqlstate"] for one in found] == ["22021", "22021", "22021", "22P02", "22001"]
    box.adds_up(hub)


def test_a_missing_parent_costs_only_its_children(box: TestBox, hub: TestHub, link: Hub) -> None:
    hub.ask("ALTER TABLE places ADD CHECK (note <> 'bad')")
    for name, note in (("a", "good"), ("b", "bad"), ("c", "good")):
        place = box.place(name, note=note)
        box.write(f"INSERT INTO sensors (id, place_id) VALUES ('{uuid.uuid4()}', '{place}')")
    done = box.drain(link)
    assert (done.rows, done.dead) == (4, 2)
    assert [row[:3] for row in letters(hub)] == [
        ["places", "insert", "23514"],
        ["sensors", "insert", "23503"],
    ]


def test_a_constraint_that_is_checked_at_the_end_refuses_only_its_row(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    hub.ask("ALTER TABLE samples ADD CONSTRAINT once UNIQUE (text) DEFERRABLE INITIALLY DEFERRED")
    for word in ("a", "b", "a", "c"):
        box.samples(1, text=word)
    done = box.drain(link)
    assert (done.rows, done.dead) == (3, 1)
    box.adds_up(hub)


def test_rows_of_a_table_that_nobody_has_any_more_are_kept(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    from edgepaas.sync.delivery.drain import drain_batch

    box.samples(1, 2)
    box.place("hall")
    hub.ask("DROP TABLE samples")
    models = {"places": {"columns": [{"name": "id"}, {"name": "name"}]}}
    done = drain_batch(box.file, link, rows=100, log=box.said.append, models=models)
    assert (done.rows, done.dead) == (1, 2)
    assert [row[2] for row in letters(hub)] == ["42P01", "42P01"]


def test_a_letter_is_retried_with_its_followers_in_order(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    hub.ask("ALTER TABLE places ADD CONSTRAINT good CHECK (note <> 'bad')")
    place = box.place("hall", note="bad")
    box.write(f"UPDATE places SET note = 'good', first = 2 WHERE id = '{place}'")
    box.write(f"UPDATE places SET labels = '[0.1]' WHERE id = '{place}'")
    box.drain(link)
    first, second, _ = waiting(link)
    with pytest.raises(dead_letters.DeadLetterNotFound, match=str(first.id)):
        dead_letters.retry(link, second.id)
    still = dead_letters.retry(link, first.id)
    assert (still.applied, still.waiting) == (0, 3)
    assert "good" in still.message
    hub.ask("ALTER TABLE places DROP CONSTRAINT good")
    done = dead_letters.retry(link, str(first.id))
    assert (done.applied, done.waiting) == (3, 0)
    assert hub.ask("SELECT note, first, labels FROM places") == [["good", 2, [0.1]]]
    assert waiting(link) == []
    assert hub.one("SELECT count(*) FROM sync_conflicts") == 0
    box.write(f"UPDATE places SET note = 'after' WHERE id = '{place}'")
    assert box.drain(link).rows == 1, "nothing waits, so nothing has to follow"
    with pytest.raises(dead_letters.DeadLetterNotFound, match="retried"):
        dead_letters.retry(link, first.id)


def test_a_discarded_letter_holds_nothing_up(box: TestBox, hub: TestHub, link: Hub) -> None:
    hub.ask("ALTER TABLE places ADD CHECK (note <> 'bad')")
    place = box.place("hall", note="good")
    box.write(f"UPDATE places SET note = 'bad' WHERE id = '{place}'")
    box.drain(link)
    (letter,) = waiting(link, box.node)
    assert waiting(link, str(uuid.uuid4())) == []
    dead_letters.discard(link, letter.id)
    box.write(f"UPDATE places SET note = 'better' WHERE id = '{place}'")
    done = box.drain(link)
    assert (done.rows, done.dead, done.conflicts) == (1, 0, 1)
    assert hub.one("SELECT note FROM places") == "better"
    with pytest.raises(dead_letters.DeadLetterNotFound, match="discarded"):
        dead_letters.discard(link, letter.id)
    with pytest.raises(dead_letters.DeadLetterNotFound, match="no dead letter"):
        dead_letters.discard(link, uuid.uuid4())


def test_a_key_that_no_index_takes_is_kept_like_any_refused_row(
    box: TestBox, hub: TestHub, link: Hub
) -> None:
    long = "".join(chr(0x4E00 + n * 7919 % 20000) for n in range(4000))
    for number in (1, 2):
        box.write('INSERT INTO "all ""kinds""" ("wo\'rd", "select") VALUES (?, ?)', (long, number))
    done = box.drain(link)
    assert (done.rows, done.dead) == (0, 2)
    first, second = waiting(link)
    assert (first.details["sqlstate"], first.key[:7]) == ("54000", "sha256:")
    assert first.key != second.key
    box.write('UPDATE "all ""kinds""" SET small = 1 WHERE "select" = 1')
    assert box.drain(link).dead == 1
