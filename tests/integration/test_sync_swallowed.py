# SPDX-License-Identifier: Apache-2.0
"""Rows that PostgreSQL accepts and does not keep: they are dead letters, and nothing else is."""

from collections.abc import Iterator

import pytest

from edgepaas.sync.delivery.bisect import FOLLOWS
from edgepaas.sync.delivery.dead_letters import retry
from edgepaas.sync.delivery.verification import CHANGED, NOT_DELETED, NOT_UPDATED, SWALLOWED
from edgepaas.sync.hub.connection import Hub
from tests.support.forwarding import TestBox, TestHub, document
from tests.support.weaken import weakened

MODELS = document()["tables"]


@pytest.fixture
def meddling(hub: TestHub) -> Iterator[TestHub]:
    """The hub; the function that a trigger of the test calls is gone afterwards."""
    yield hub
    hub.ask("DROP FUNCTION IF EXISTS meddle CASCADE")


def meddle(hub: TestHub, table: str, when: str, body: str) -> None:
    """Have a trigger on the rows of *table* do *body* in PL/pgSQL; it may end with RETURN."""
    hub.ask(
        "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {body}; RETURN coalesce(NEW, OLD); END $$"
    )
    hub.ask(f"CREATE TRIGGER meddle {when} ON {table} FOR EACH ROW EXECUTE FUNCTION meddle()")


def stop_meddling(hub: TestHub) -> None:
    hub.ask("DROP FUNCTION meddle CASCADE")


def letters(hub: TestHub) -> list[str]:
    """Return why each dead letter is one, in order."""
    return [row[0] for row in hub.ask("SELECT message FROM sync_dead_letters ORDER BY seq")]


def conflicts(hub: TestHub) -> int:
    return int(hub.one("SELECT count(*) FROM sync_conflicts"))


@pytest.mark.parametrize("known", [False, True], ids=["before", "after-the-catalog-was-read"])
def test_every_fact_that_a_trigger_swallows_is_a_dead_letter(
    box: TestBox, meddling: TestHub, link: Hub, known: bool
) -> None:
    """Of 479 none is stored, and none counts as delivered."""
    if known:
        box.samples(0.0)
        box.drain_all(link)
    meddle(meddling, "samples", "BEFORE INSERT", "RETURN NULL")
    ids = box.samples(*map(float, range(479)))
    done = box.drain_all(link)
    assert (sum(one.rows for one in done), sum(one.dead for one in done)) == (0, 479)
    assert set(letters(meddling)) == {SWALLOWED}
    assert conflicts(meddling) == 0
    counted = box.adds_up(meddling)
    assert (counted["dead"], counted["pending"]) == (479, 0)
    stop_meddling(meddling)
    some = meddling.ask("SELECT id, row_key FROM sync_dead_letters ORDER BY seq LIMIT 10")
    assert [retry(link, letter, models=MODELS).applied for letter, _ in some] == [1] * 10
    stored = {str(row[0]) for row in meddling.ask("SELECT id FROM samples")}
    assert {key for _, key in some} == set(ids[:10]) <= stored


def test_only_the_rows_that_are_swallowed_or_changed_are_dead_letters(
    box: TestBox, meddling: TestHub, link: Hub
) -> None:
    meddle(
        meddling,
        "samples",
        "BEFORE INSERT",
        "IF NEW.value = 2 THEN RETURN NULL; END IF; IF NEW.value = 4 THEN NEW.text := 'x'; END IF",
    )
    box.samples(1.0, 2.0, 3.0, 4.0, 5.0)
    (done,) = box.drain_all(link)
    assert (done.rows, done.dead, done.conflicts) == (3, 2, 0)
    assert letters(meddling) == [SWALLOWED, CHANGED]
    assert [row[0] for row in meddling.ask("SELECT value FROM samples ORDER BY value")] == [1, 3, 5]


def test_what_a_trigger_does_after_the_row_was_stored_is_seen_as_well(
    box: TestBox, meddling: TestHub, link: Hub
) -> None:
    meddle(
        meddling,
        "samples",
        "AFTER INSERT",
        "IF NEW.value = 2 THEN DELETE FROM samples WHERE id = NEW.id; "
        "ELSE UPDATE samples SET value = round(value::numeric, 1) WHERE id = NEW.id; END IF",
    )
    box.samples(1.5, 2.0, 3.14159)
    (done,) = box.drain_all(link)
    assert (done.rows, done.dead) == (1, 2)
    assert letters(meddling) == [SWALLOWED, CHANGED]


def test_a_trigger_that_only_looks_costs_no_row(box: TestBox, meddling: TestHub, link: Hub) -> None:
    meddle(meddling, "samples", "BEFORE INSERT OR UPDATE", "PERFORM NEW.id")
    box.samples(*map(float, range(100)), text="ä")
    (done,) = box.drain_all(link)
    assert (done.rows, done.dead, done.conflicts) == (100, 0, 0)


def test_a_fact_that_was_there_with_other_values_is_still_a_conflict(
    box: TestBox, meddling: TestHub, link: Hub
) -> None:
    """It is told from one that a trigger changed, in one and the same batch."""
    meddle(meddling, "samples", "BEFORE INSERT", "IF NEW.value = 9 THEN NEW.value := 8; END IF")
    first, second, third = box.samples(1.0, 2.0, 9.0)
    meddling.ask(f"INSERT INTO samples (id, value) VALUES ('{first}', 7)")
    meddling.ask(f"INSERT INTO samples (id, value) VALUES ('{second}', 2)")
    (done,) = box.drain_all(link)
    assert (done.rows, done.dead, done.conflicts) == (2, 1, 1)
    assert meddling.ask("SELECT hub ->> 'value', box ->> 'value' FROM sync_conflicts") == [
        ["7", "1"]
    ]
    assert meddling.one("SELECT row_key FROM sync_dead_letters") == third


def test_a_swallowed_shared_row_takes_its_followers_along(
    box: TestBox, meddling: TestHub, link: Hub
) -> None:
    meddle(meddling, "places", "BEFORE INSERT", "IF NEW.name = 'bad' THEN RETURN NULL; END IF")
    box.place("good", note="x")
    box.place("bad", note="x")
    box.write("UPDATE places SET note = 'y'")
    done = box.drain_all(link)
    assert sum(one.dead for one in done) == 2
    assert conflicts(meddling) == 0
    assert meddling.ask("SELECT name, note FROM places") == [["good", "y"]]
    stop_meddling(meddling)
    letter = meddling.one("SELECT id FROM sync_dead_letters ORDER BY seq LIMIT 1")
    assert retry(link, letter, models=MODELS).applied == 2
    assert meddling.ask("SELECT name, note FROM places ORDER BY 1") == [
        ["bad", "y"], ["good", "y"],
    ]  # fmt: skip


def test_an_update_and_a_delete_that_are_swallowed_are_dead_letters(
    box: TestBox, meddling: TestHub, link: Hub
) -> None:
    box.place("a", note="x")
    box.place("b", note="x")
    box.drain_all(link)
    meddle(meddling, "places", "BEFORE UPDATE OR DELETE", "RETURN NULL")
    box.write("UPDATE places SET note = 'y' WHERE name = 'a'")
    box.write("DELETE FROM places WHERE name = 'b'")
    done = box.drain_all(link)
    assert sum(one.dead for one in done) == 2
    assert letters(meddling) == [CHANGED, NOT_DELETED]
    assert meddling.one("SELECT count(*) FROM sync_tombstones") == 0
    assert meddling.ask("SELECT name, note FROM places ORDER BY 1") == [["a", "x"], ["b", "x"]]


def test_merging_with_a_row_that_is_there_swallows_nothing(
    box: TestBox, other: TestBox, meddling: TestHub, link: Hub
) -> None:
    """An empty value leaves what the hub has, under a trigger's eyes as well."""
    meddle(meddling, "places", "BEFORE INSERT OR UPDATE", "PERFORM NEW.id")
    box.place("a", note="x", first=3, last=3, origin="one")
    box.drain_all(link)
    other.place("a", labels="{}", first=5, last=5, origin="two")
    (done,) = other.drain_all(link)
    assert (done.rows, done.dead) == (1, 0)
    assert meddling.ask("SELECT note, first, last, origin FROM places") == [["x", 3, 5, "one"]]


def test_what_is_sent_again_and_swallowed_is_a_dead_letter_and_no_conflict(
    box: TestBox, meddling: TestHub, link: Hub
) -> None:
    """The hub was set back: what it lost is sent again, under the guards of a rewind."""
    box.samples(1.0, 2.0)
    box.place("a", note="x")
    box.place("b", note="x")
    box.drain_all(link)
    as_it_was = meddling.ask("SELECT id, name FROM places")
    box.write("UPDATE places SET note = 'y' WHERE name = 'a'")
    box.write("DELETE FROM places WHERE name = 'b'")
    box.drain_all(link)
    meddling.ask("TRUNCATE sync_streams, sync_tombstones, samples, places CASCADE")
    for identity, name in as_it_was:
        meddling.ask(f"INSERT INTO places (id, name, note) VALUES ('{identity}', '{name}', 'x')")
    meddle(
        meddling,
        "samples",
        "BEFORE INSERT",
        "IF TG_TABLE_NAME = 'places' THEN RETURN NULL; END IF; "
        "IF NEW.value = 2 THEN RETURN NULL; END IF",
    )
    meddling.ask(
        "CREATE TRIGGER meddle BEFORE UPDATE OR DELETE ON places "
        "FOR EACH ROW EXECUTE FUNCTION meddle()"
    )
    box.drain_all(link)
    why = [one for one in letters(meddling) if one != FOLLOWS]
    assert why == [SWALLOWED, NOT_UPDATED, NOT_DELETED]
    assert conflicts(meddling) == 0
    assert [row[0] for row in meddling.ask("SELECT value FROM samples")] == [1]
    assert meddling.ask("SELECT name, note FROM places ORDER BY 1") == [["a", "x"], ["b", "x"]]


def test_a_letter_that_is_swallowed_again_goes_on_waiting(
    box: TestBox, meddling: TestHub, link: Hub
) -> None:
    meddle(meddling, "samples", "BEFORE INSERT", "RETURN NULL")
    box.samples(1.0)
    box.drain_all(link)
    letter = meddling.one("SELECT id FROM sync_dead_letters")
    result = retry(link, letter, models=MODELS)
    assert (result.applied, result.waiting, result.message) == (0, 1, SWALLOWED)
    assert meddling.one("SELECT state FROM sync_dead_letters") == "waiting"


def test_a_build_that_believes_the_command_tags_is_found_out(
    box: TestBox, meddling: TestHub, link: Hub
) -> None:
    meddle(meddling, "samples", "BEFORE INSERT", "NEW.value := 0")
    box.samples(*map(float, range(1, 11)))
    with weakened("believes-tags"):
        (done,) = box.drain_all(link)
    assert (done.rows, done.dead) == (10, 0)
    assert meddling.one("SELECT sum(value) FROM samples") == 0
