# SPDX-License-Identifier: Apache-2.0
"""Rows that wait while the schema changes their names: every value arrives where it belongs.

The record of what was written is the test's own list, never the box's.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Integer, String

from edgepaas.schema.postgresql.hub import prepare_hub
from edgepaas.schema.stage import prepare_database
from edgepaas.settings import Settings
from edgepaas.sync.errors import SchemaDrift
from edgepaas.sync.hub.connection import open_hub
from edgepaas.sync.mirror.mirror import Mirror
from tests.support.chains import postgres_contract
from tests.support.hub_database import HubDatabase
from tests.support.postgres_server import PostgresServer
from tests.support.revised_shop import (
    BATCH,
    DROPPED,
    RENAMED,
    SWAPPED,
    Columns,
    Demanded,
    Shop,
    boxes,
    first_shop,
    reported,
    rows,
)
from tests.support.weaken import weakened


@pytest.fixture
def hub(postgres: PostgresServer, postgres_url: str) -> HubDatabase:
    """An empty database."""
    return HubDatabase(postgres, postgres_url.rpartition("/")[2])


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop with its first revision: two texts."""
    return first_shop(tmp_path)


@pytest.mark.parametrize("way", RENAMED)
@pytest.mark.parametrize("first", ["box", "hub"])
def test_a_value_that_waits_while_its_column_is_renamed_arrives(
    shop: Shop, hub: HubDatabase, tmp_path: Path, way: str, first: str
) -> None:
    shop.revision("0002", {"b": String(20), "c": String(20)}, *RENAMED[way])
    box, other = boxes(shop, tmp_path, hub, "box", "other")
    written = {box.add(a=f"a{n}", c=f"c{n}"): (f"a{n}", f"c{n}") for n in range(7)}
    changed = next(iter(written))
    box.execute("UPDATE goods SET a = 'new' WHERE id = ?", changed)
    written[changed] = ("new", "c0")
    if first == "hub":
        other.upgrade_hub("0002")
    else:
        box.upgrade("0002")
        written[box.add(b="later", c="x")] = ("later", "x")
        box.upgrade_hub("0002")
    box.drain()
    assert rows(hub, "b, c") == written
    counts = box.counts()
    assert (counts["accepted"], counts["conflicts"], counts["dead"]) == (counts["delivered"], 0, 0)


@pytest.mark.parametrize("first", ["box", "hub"])
def test_two_columns_that_swap_their_names_keep_their_values(
    shop: Shop, hub: HubDatabase, tmp_path: Path, first: str
) -> None:
    """The definition of the table is the same before and after: only the record tells."""
    shop.revision("0002", {"a": String(20), "c": String(20)}, *SWAPPED)
    box, other = boxes(shop, tmp_path, hub, "box", "other")
    written = {box.add(a=f"a{n}", c=f"c{n}"): (f"c{n}", f"a{n}") for n in range(3)}
    if first == "hub":
        other.upgrade_hub("0002")
        box.drain()
        written[box.add(a="still a", c="still c")] = ("still c", "still a")
    else:
        box.upgrade("0002")
        written[box.add(a="was c", c="was a")] = ("was c", "was a")
        box.upgrade_hub("0002")
    box.drain()
    assert rows(hub, "a, c") == written
    assert box.counts()["conflicts"] == 0


def test_a_swap_while_a_drainer_is_connected_puts_nothing_in_the_wrong_column(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    """What the connection knows of the hub is old; its COMMIT finds out."""
    shop.revision("0002", {"a": String(20), "c": String(20)}, *SWAPPED)
    box, other = boxes(shop, tmp_path, hub, "box", "other")
    with open_hub(box.settings, hub.url) as link:
        written = {box.add(a="a0", c="c0"): ("c0", "a0")}
        box.drain(link)
        other.upgrade_hub("0002")
        written[box.add(a="a1", c="c1")] = ("c1", "a1")
        box.drain(link)
    assert rows(hub, "a, c") == written


def test_a_box_that_was_away_for_three_revisions_lands(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    """A rename, a swap, a rename of the table and of a column: each while its rows wait."""
    texts: Columns = {"b": String(20), "c": String(20)}
    shop.revision("0002", texts, *RENAMED["batch"])
    swapped = tuple(line.replace(" a ", " b ").replace("TO a", "TO b") for line in SWAPPED)
    shop.revision("0003", texts, *swapped)
    shop.revision(
        "0004",
        {"d": String(20), "c": String(20), "n": Integer()},
        'op.rename_table("goods", "items")',
        'op.execute("ALTER TABLE items RENAME COLUMN b TO d")',
        'op.add_column("items", sa.Column("n", sa.Integer()))',
        table="items",
    )
    box, other = boxes(shop, tmp_path, hub, "box", "other")
    # What was a is c at the end; what was c is d.
    written: dict[str, Sequence[object]] = {
        box.add(a=f"a{n}", c=f"c{n}"): (f"c{n}", f"a{n}", None) for n in range(3)
    }
    other.upgrade("0004")
    other.upgrade_hub("0004")
    written[other.add("items", d="D", c="C", n=1)] = ("D", "C", 1)
    other.drain()
    box.drain()
    assert rows(hub, "d, c, n", "items") == written
    written[box.add(a="late", c="r")] = ("r", "late", None)
    box.upgrade("0002")
    written[box.add(b="second", c="s")] = ("s", "second", None)
    box.upgrade("0003")
    written[box.add(b="third", c="t")] = ("third", "t", None)
    box.upgrade("0004")
    written[box.add("items", d="fourth", c="u", n=4)] = ("fourth", "u", 4)
    box.drain()
    assert rows(hub, "d, c, n", "items") == written
    counts = box.counts()
    assert (counts["accepted"], counts["conflicts"], counts["dead"]) == (counts["delivered"], 0, 0)


def test_rows_of_a_box_ahead_reach_a_hub_behind_it_under_the_old_names(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    shop.revision("0002", {"a": String(20), "c": String(20)}, *SWAPPED)
    shop.revision(
        "0003",
        {"a": String(20), "d": String(20)},
        BATCH + 'batch.alter_column("c", new_column_name="d")',
    )
    (box,) = boxes(shop, tmp_path, hub, "box")
    written = {box.add(a="a0", c="c0"): ("a0", "c0")}
    box.upgrade("0003")
    written[box.add(a="was c", d="was a")] = ("was a", "was c")
    box.drain()
    assert rows(hub, "a, c") == written
    box.upgrade_hub("0003")
    written = {key: (c, a) for key, (a, c) in written.items()}
    written[box.add(a="x", d="y")] = ("x", "y")
    box.drain()
    assert rows(hub, "a, d") == written


def test_a_box_behind_a_renamed_hub_mirrors_what_it_calls_otherwise(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    """Also over a connection that was there before, and for a table that was renamed."""
    shop.revision(
        "0002",
        {"a": String(20), "c": String(20)},
        *SWAPPED,
        'op.rename_table("goods", "items")',
        table="items",
    )
    box, other = boxes(shop, tmp_path, hub, "box", "other")
    with box.file() as file, open_hub(box.settings, hub.url) as link:
        mirror = Mirror(json.loads(box.paths.tables.read_text()))
        first = other.add(a="a0", c="c0")
        other.drain()
        mirror.run(file, link)
        other.upgrade("0002")
        other.upgrade_hub("0002")
        second = other.add("items", a="was c", c="was a")
        other.drain()
        with pytest.raises(SchemaDrift):
            mirror.run(file, link)
        link.forget_tables()
        waits = box.add(a="a2", c="c2")
        mirror.run(file, link)
        found = {row[0]: row[1:] for row in file.execute("SELECT id, a, c FROM goods")}
    expected = {first: ("a0", "c0"), second: ("was a", "was c"), waits: ("a2", "c2")}
    assert found == expected
    box.drain()
    assert rows(hub, "c, a", "items") == expected


def test_a_file_keeps_a_column_until_the_values_that_wait_are_home(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    """Refused with the number of rows that have a value there, and the way out; then it is done."""
    shop.revision("0002", {"c": String(20)}, DROPPED)
    (box,) = boxes(shop, tmp_path, hub, "box")
    written: dict[str, Sequence[object]] = {
        box.add(a=f"a{n}", c="c"): (f"a{n}", "c") for n in range(4)
    }
    written[box.add(c="none")] = (None, "none")
    report = box.upgrade("0002")
    assert report.action == "unmigrated"
    assert "4 rows wait with a value of the column goods.a, which it drops" in report.message
    assert "edgepaas.app.renamed" in report.message
    written[box.add(c="by the new build")] = (None, "by the new build")
    box.drain()
    assert rows(hub, "a, c") == written
    assert box.upgrade("0002").action == "migrated"
    assert box.upgrade_hub("0002").action == "migrated"
    assert rows(hub, "c") == {key: (c,) for key, (_, c) in written.items()}


def test_a_file_comes_as_far_as_the_build_needs_it_while_values_wait(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    """What expands is applied, and what contracts waits: the new build serves meanwhile."""
    columns: Columns = {"c": String(20), "n": Integer()}
    expands = 'op.add_column("goods", sa.Column("n", sa.Integer()))'
    shop.revision("0002", {"a": String(20), **columns}, expands)
    shop.revision("0003", columns, DROPPED)
    (box,) = boxes(shop, tmp_path, hub, "box")
    written: dict[str, Sequence[object]] = {box.add(a="a", c="c"): ("a", "c", None)}
    report = box.upgrade("0003")
    assert (report.action, report.after) == ("unmigrated", ("0002",))
    assert "1 row waits with a value of the column goods.a" in report.message
    written[box.add(c="d", n=1)] = (None, "d", 1)
    report = box.upgrade_hub("0003")
    assert (report.action, report.after) == ("unmigrated", ("0002",))
    box.drain()
    assert rows(hub, "a, c, n") == written
    assert box.upgrade("0003").after == ("0003",)
    assert box.upgrade_hub("0003").after == ("0003",)
    assert rows(hub, "c, n") == {key: tuple(row[1:]) for key, row in written.items()}


def test_a_narrower_type_waits_for_the_values_that_it_does_not_hold(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    narrowed = BATCH + 'batch.alter_column("a", type_=sa.String(3), existing_type=sa.String(20))'
    shop.revision("0002", {"a": String(3), "c": String(20)}, narrowed)
    (box,) = boxes(shop, tmp_path, hub, "box")
    box.add(a="abc")
    long = box.add(a="abcd")
    report = box.upgrade("0002")
    assert "1 row waits with a value of the column goods.a, which VARCHAR(3)" in report.message
    assert box.upgrade_hub("0002").action == "unmigrated"
    box.execute("UPDATE goods SET a = 'ab' WHERE id = ?", long)
    box.drain()
    assert {str(row[0]) for row in rows(hub, "a").values()} == {"abc", "ab"}
    assert box.upgrade("0002").action == "migrated"
    assert box.upgrade_hub("0002").action == "migrated"


def test_what_a_migration_retires_does_not_hold_it_up_and_is_kept(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    said = ("from edgepaas.app import retired", 'retired("goods", "a")')
    shop.revision("0002", {"c": String(20)}, DROPPED, *said)
    (box,) = boxes(shop, tmp_path, hub, "box")
    written = {box.add(a=f"a{n}", c=f"c{n}"): (f"a{n}", f"c{n}") for n in range(2)}
    bare = box.add(c="bare")
    assert box.upgrade("0002").action == "migrated"
    assert box.upgrade_hub("0002").action == "migrated"
    box.drain()
    assert rows(hub, "c") == {bare: ("bare",), **{key: (c,) for key, (_, c) in written.items()}}
    kept = hub.execute("SELECT row_key, box->>'a', reason FROM sync_conflicts")
    assert {str(row[0]): row[1] for row in kept} == {key: a for key, (a, _) in written.items()}
    assert box.counts()["conflicts"] == 2


def test_a_value_for_a_column_that_the_hub_dropped_meanwhile_is_kept(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    """A box that nobody heard of for long: inserts and updates, the rest of each row delivered."""
    shop.revision("0002", {"c": String(20)}, DROPPED)
    box, other = boxes(shop, tmp_path, hub, "box", "other")
    first = box.add(a="a0", c="c0")
    box.drain()
    box.execute("UPDATE goods SET a = 'a1' WHERE id = ?", first)
    box.execute("UPDATE goods SET a = 'a2', c = 'c2' WHERE id = ?", first)
    second = box.add(a="a3", c="c3")
    assert other.upgrade_hub("0002").action == "migrated"
    box.drain()
    assert rows(hub, "c") == {first: ("c2",), second: ("c3",)}
    kept = hub.execute("SELECT row_key, box->>'a' FROM sync_conflicts ORDER BY seq")
    assert [list(row) for row in kept] == [[first, "a1"], [first, "a2"], [second, "a3"]]
    counts = box.counts()
    assert (counts["delivered"], counts["conflicts"], counts["pending"]) == (4, 3, 0)


def test_a_dropped_column_waits_until_no_box_reports_it(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    """First for a box that still writes it, then for its rows that wait; expanding does not."""
    shop.revision(
        "0002",
        {"c": String(20), "n": Integer()},
        'op.add_column("goods", sa.Column("n", sa.Integer()))',
    )
    shop.revision("0003", {"c": String(20), "n": Integer()}, DROPPED)
    new, old = boxes(shop, tmp_path, hub, "new", "old")
    with open_hub(new.settings, hub.url) as link:
        reported(old, link, hub)
        report = new.upgrade_hub("0003")
        assert (report.action, report.after) == ("unmigrated", ("0002",))
        assert "box old still writes the column goods.a, which it drops" in report.message
        waits = old.add(a="a", c="c")
        old.upgrade("0002")
        reported(old, link, hub)
        report = new.upgrade_hub("0003")
        assert "1 row of box old may wait with the column goods.a" in report.message
        assert report.action == "unmigrated"
        old.drain()
        assert rows(hub, "a, c") == {waits: ("a", "c")}
        reported(old, link, hub)
        assert new.upgrade_hub("0003").action == "migrated"
        assert rows(hub, "c, n") == {waits: ("c", None)}


def test_a_box_that_was_taken_out_of_the_nodes_holds_nothing_up(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    shop.revision("0002", {"c": String(20)}, DROPPED)
    new, old = boxes(shop, tmp_path, hub, "new", "old")
    with open_hub(new.settings, hub.url) as link:
        reported(old, link, hub)
        assert new.upgrade_hub("0002").action == "unmigrated"
        hub.execute("DELETE FROM nodes WHERE name = 'old'")
        assert new.upgrade_hub("0002").action == "migrated"
        reported(new, link, hub)
    assert hub.number("SELECT count(DISTINCT node_id) FROM sync_layouts") == 1


def test_a_column_that_demands_a_value_waits_for_rows_that_bring_none(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    shop.revision(
        "0002",
        {"a": String(20), "c": String(20), "n": Demanded()},
        'op.add_column("goods", sa.Column("n", sa.Integer(), nullable=False, server_default="7"))',
        BATCH + 'batch.alter_column("n", server_default=None)',
    )
    (box,) = boxes(shop, tmp_path, hub, "box")
    written = {box.add(a="a", c="c")}
    box.upgrade("0002")
    written.add(box.add(a="b", n=1))
    report = box.upgrade_hub("0002")
    assert report.action == "unmigrated"
    assert "1 row waits here with no value for goods.n, which it demands" in report.message
    with pytest.raises(SchemaDrift):
        box.drain()  # the older row is delivered, the newer one needs the column
    assert box.upgrade_hub("0002").action == "migrated"
    box.drain()
    assert set(rows(hub, "n")) == written


def test_a_column_that_is_split_by_hand_waits_for_its_values(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    """The new models do not fit the old file: nothing serves, and the file is left as it is."""
    shop.revision(
        "0002",
        {"first": String(20), "rest": String(20), "c": String(20)},
        'op.add_column("goods", sa.Column("first", sa.String(20)))',
        'op.add_column("goods", sa.Column("rest", sa.String(20)))',
        """op.execute("UPDATE goods SET first = substr(a, 1, 1), rest = substr(a, 2)")""",
        DROPPED,
    )
    (box,) = boxes(shop, tmp_path, hub, "box")
    written = [box.add(a="ab", c="c") for _ in range(3)]
    report = box.upgrade("0002")
    assert report.action == "refused"
    assert "3 rows wait with a value of the column goods.a" in report.message
    assert not list(box.paths.quarantine.glob("*"))
    box.drain()
    assert box.upgrade("0002").action == "migrated"
    assert box.upgrade_hub("0002").action == "migrated"
    assert rows(hub, "first, rest") == dict.fromkeys(written, ("a", "b"))
    with box.file() as file:
        assert file.execute("SELECT DISTINCT first, rest FROM goods").fetchall() == [("a", "b")]


def test_an_older_build_does_not_serve_where_two_columns_have_swapped_their_names(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    """All columns that it needs are there, each with the other's values."""
    shop.revision("0002", {"a": String(20), "c": String(20)}, *SWAPPED)
    old, new = boxes(shop, tmp_path, hub, "old", "new")
    new.upgrade_hub("0002")
    serving = postgres_contract(old.paths, hub.url, fallback=False)
    report = prepare_database(serving, old.settings, old.paths, shop.application("0001"))
    assert report.action == "refused"
    assert "a newer build calls goods.a c" in report.message


def test_an_older_build_sends_to_a_hub_that_was_renamed_and_does_not_serve_from_it(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    shop.revision("0002", {"b": String(20), "c": String(20)}, *RENAMED["raw"])
    old, new = boxes(shop, tmp_path, hub, "old", "new")
    new.upgrade_hub("0002")
    assert old.upgrade_hub("0001").action == "ahead"
    frozen = Settings.of(RUN_MIGRATIONS="false")
    application = shop.application("0001")
    assert prepare_hub(old.contract, frozen, application).action == "ahead"
    serving = postgres_contract(old.paths, hub.url, fallback=False)
    report = prepare_database(serving, old.settings, old.paths, application)
    assert report.action == "refused"
    assert "goods.a is missing" in report.message


@pytest.mark.parametrize(
    ("weak", "seen_by"),
    [
        (
            "names-alone",
            partial(test_two_columns_that_swap_their_names_keep_their_values, first="hub"),
        ),
        (
            "names-as-read",
            test_a_swap_while_a_drainer_is_connected_puts_nothing_in_the_wrong_column,
        ),
        ("contracts-at-once", test_a_dropped_column_waits_until_no_box_reports_it),
        ("contracts-at-once", test_a_file_keeps_a_column_until_the_values_that_wait_are_home),
        (
            "dropped-in-silence",
            test_a_value_for_a_column_that_the_hub_dropped_meanwhile_is_kept,
        ),
    ],
)
def test_a_weakened_build_is_found_out(
    shop: Shop,
    hub: HubDatabase,
    tmp_path: Path,
    weak: str,
    seen_by: Callable[..., None],
) -> None:
    with weakened(weak), pytest.raises(AssertionError):
        seen_by(shop=shop, hub=hub, tmp_path=tmp_path)
