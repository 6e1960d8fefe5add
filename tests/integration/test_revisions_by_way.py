# SPDX-License-Identifier: Apache-2.0
"""Each kind of change, through ORM migrations, batch mode and raw SQL, while rows wait on a box.

Renames by way are in test_renames_waiting.py, as are a swap of two names in raw SQL, one with a
drainer connected, a split in batch mode, a box that was away for three revisions that rename, and
what waits for other boxes. Here are the other ways, columns that demand a value, and three
revisions that do something else than rename.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import String

from edgepaas.cli import main
from edgepaas.schema.hub_conditions import note_hub_conditions, read_hub_conditions
from edgepaas.sync.hub.connection import open_hub
from tests.support.hub_database import HubDatabase
from tests.support.live_box import LiveBox
from tests.support.postgres_server import PostgresServer
from tests.support.relay import Relay
from tests.support.revised_shop import (
    BATCH,
    DROPPED,
    Box,
    Columns,
    Demanded,
    Shop,
    boxes,
    first_shop,
    reported,
    rows,
)
from tests.support.service_process import until
from tests.support.weaken import weak_environ, weakened

TEXTS: Columns = {"a": String(20), "c": String(20)}


@pytest.fixture
def hub(postgres: PostgresServer, postgres_url: str) -> HubDatabase:
    """An empty database."""
    return HubDatabase(postgres, postgres_url.rpartition("/")[2])


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop with its first revision: two texts."""
    return first_shop(tmp_path)


_STEPS = (("a", "middle"), ("c", "a"), ("middle", "c"))
SWAPS = {
    "operation": tuple(
        f'op.alter_column("goods", "{old}", new_column_name="{new}")' for old, new in _STEPS
    ),
    "batch": tuple(
        f'{BATCH}batch.alter_column("{old}", new_column_name="{new}")' for old, new in _STEPS
    ),
    "batch-anew": tuple(
        line
        for old, new in _STEPS
        for line in (
            'with op.batch_alter_table("goods", recreate="always") as batch:',
            f'    batch.alter_column("{old}", new_column_name="{new}")',
        )
    ),
    "copied": (
        'op.add_column("goods", sa.Column("kept", sa.String(20)))',
        'op.execute("UPDATE goods SET kept = a")',
        'op.execute("UPDATE goods SET a = c")',
        'op.execute("UPDATE goods SET c = kept")',
        BATCH + 'batch.drop_column("kept")',
        "from edgepaas.app import renamed",
        'renamed("goods", "a", "c")',
        'renamed("goods", "c", "a")',
    ),
}


@pytest.mark.parametrize("way", SWAPS)
@pytest.mark.parametrize("first", ["box", "hub"])
def test_two_columns_swap_their_names_by_every_way(
    shop: Shop, hub: HubDatabase, tmp_path: Path, way: str, first: str
) -> None:
    shop.revision("0002", TEXTS, *SWAPS[way])
    box, other = boxes(shop, tmp_path, hub, "box", "other")
    written = {box.add(a=f"a{n}", c=f"c{n}"): (f"c{n}", f"a{n}") for n in range(3)}
    changed = next(iter(written))
    box.execute("UPDATE goods SET a = 'new' WHERE id = ?", changed)
    written[changed] = ("c0", "new")
    if first == "hub":
        other.upgrade_hub("0002")
    else:
        box.upgrade("0002")
        written[box.add(a="was c", c="was a")] = ("was c", "was a")
        box.upgrade_hub("0002")
    box.drain()
    assert rows(hub, "a, c") == written
    counts = box.counts()
    assert (counts["accepted"], counts["conflicts"], counts["dead"]) == (counts["delivered"], 0, 0)


_PARTS = (
    'op.add_column("goods", sa.Column("first", sa.String(20)))',
    'op.add_column("goods", sa.Column("rest", sa.String(20)))',
    """op.execute("UPDATE goods SET first = substr(a, 1, 1), rest = substr(a, 2)")""",
)
SPLITS = {
    "operation": (*_PARTS, 'op.drop_column("goods", "a")'),
    "batch": (*_PARTS, DROPPED),
    "batch-anew": (
        *_PARTS,
        'with op.batch_alter_table("goods", recreate="always") as batch:',
        '    batch.drop_column("a")',
    ),
    "raw": (*_PARTS, 'op.execute("ALTER TABLE goods DROP COLUMN a")'),
    "table": (
        'op.create_table("names", sa.Column("id", sa.String(36), primary_key=True),'
        ' sa.Column("a", sa.String(20)))',
        'op.execute("INSERT INTO names SELECT id, a FROM goods")',
        DROPPED,
    ),
}


@pytest.mark.parametrize("way", SPLITS)
@pytest.mark.parametrize("first", ["box", "hub"])
def test_a_split_waits_for_the_values_that_have_no_place_by_every_way(
    shop: Shop, hub: HubDatabase, tmp_path: Path, way: str, first: str
) -> None:
    """Refused with their number on whichever side comes first, and applied when they are home."""
    parts: Columns = {} if way == "table" else {"first": String(20), "rest": String(20)}
    shop.revision("0002", {**parts, "c": String(20)}, *SPLITS[way])
    (box,) = boxes(shop, tmp_path, hub, "box")
    written = [box.add(a="ab", c="c") for _ in range(3)]
    report = box.upgrade("0002") if first == "box" else box.upgrade_hub("0002")
    assert report.action in {"refused", "unmigrated"}
    assert "3 rows wait" in report.message
    assert "goods.a, which it drops" in report.message
    box.drain()
    assert rows(hub, "a, c") == dict.fromkeys(written, ("ab", "c"))
    assert box.upgrade_hub("0002").action == "migrated"
    assert box.upgrade("0002").action == "migrated"
    found = rows(hub, "a", "names") if way == "table" else rows(hub, "first, rest")
    assert found == dict.fromkeys(written, ("ab",) if way == "table" else ("a", "b"))


_NEW = 'op.add_column("goods", sa.Column("n", sa.Integer(), nullable=False, server_default="7"))'
NEW_REQUIRED = {
    "operation": (_NEW,),
    "batch": (
        BATCH + 'batch.add_column(sa.Column("n", sa.Integer(), nullable=False, '
        'server_default="7"))',
    ),
    "raw": ('op.execute("ALTER TABLE goods ADD COLUMN n INTEGER NOT NULL DEFAULT 7")',),
}


@pytest.mark.parametrize("way", NEW_REQUIRED)
@pytest.mark.parametrize("first", ["box", "hub"])
def test_a_new_column_with_a_default_takes_the_rows_of_before(
    shop: Shop, hub: HubDatabase, tmp_path: Path, way: str, first: str
) -> None:
    shop.revision("0002", {**TEXTS, "n": Demanded()}, *NEW_REQUIRED[way])
    box, other = boxes(shop, tmp_path, hub, "box", "other")
    written: dict[str, Sequence[object]] = {box.add(a="a", c="c"): ("a", 7)}
    if first == "hub":
        other.upgrade_hub("0002")
        box.drain()
        box.upgrade("0002")
    else:
        box.upgrade("0002")
        box.upgrade_hub("0002")
    written[box.add(a="b", n=1)] = ("b", 1)
    box.drain()
    assert rows(hub, "a, n") == written
    assert box.counts()["dead"] == 0


NEW_WITHOUT_DEFAULT = {
    "batch": (_NEW, BATCH + 'batch.alter_column("n", server_default=None)'),
    "batch-anew": (
        _NEW,
        'with op.batch_alter_table("goods", recreate="always") as batch:',
        '    batch.alter_column("n", server_default=None)',
    ),
    "raw": (
        'op.execute("ALTER TABLE goods ADD COLUMN n INTEGER")',
        'op.execute("UPDATE goods SET n = 7")',
        'if op.get_bind().dialect.name == "postgresql":',
        '    op.execute("ALTER TABLE goods ALTER COLUMN n SET NOT NULL")',
    ),
}


@pytest.mark.parametrize("way", NEW_WITHOUT_DEFAULT)
def test_a_new_column_that_demands_a_value_waits_by_every_way(
    shop: Shop, hub: HubDatabase, tmp_path: Path, way: str
) -> None:
    shop.revision("0002", {**TEXTS, "n": Demanded()}, *NEW_WITHOUT_DEFAULT[way])
    (box,) = boxes(shop, tmp_path, hub, "box")
    written: dict[str, Sequence[object]] = {box.add(a="a"): ("a", 7), box.add(a="b"): ("b", 7)}
    report = box.upgrade_hub("0002")
    assert report.action == "unmigrated"
    assert "2 rows wait here with no value for goods.n, which it demands" in report.message
    box.drain()
    assert box.upgrade_hub("0002").action == "migrated"
    box.upgrade("0002")
    written[box.add(a="c", n=1)] = ("c", 1)
    box.drain()
    assert rows(hub, "a, n") == written


REQUIRED = {
    "operation": (
        """op.execute("UPDATE goods SET a = '' WHERE a IS NULL")""",
        'if op.get_bind().dialect.name == "postgresql":',
        '    op.alter_column("goods", "a", existing_type=sa.String(20), nullable=False)',
    ),
    "batch": (
        """op.execute("UPDATE goods SET a = '' WHERE a IS NULL")""",
        BATCH + 'batch.alter_column("a", existing_type=sa.String(20), nullable=False)',
    ),
    "with-default": (
        """op.execute("UPDATE goods SET a = '' WHERE a IS NULL")""",
        BATCH + 'batch.alter_column("a", existing_type=sa.String(20), nullable=False, '
        'server_default="")',
    ),
    "raw": (
        """op.execute("UPDATE goods SET a = '' WHERE a IS NULL")""",
        'if op.get_bind().dialect.name == "postgresql":',
        '    op.execute("ALTER TABLE goods ALTER COLUMN a SET NOT NULL")',
    ),
}


@pytest.mark.parametrize("way", REQUIRED)
def test_a_column_that_may_no_longer_be_empty_waits_for_rows_where_it_is(
    shop: Shop, hub: HubDatabase, tmp_path: Path, way: str
) -> None:
    """They became dead letters, though they were acknowledged."""
    shop.revision("0002", TEXTS, *REQUIRED[way])
    (box,) = boxes(shop, tmp_path, hub, "box")
    written = {box.add(c="x"): ("", "x"), box.add(a="a", c="y"): ("a", "y")}
    emptied = box.add(a="e", c="z")
    box.execute("UPDATE goods SET a = NULL WHERE id = ?", emptied)
    written[emptied] = ("", "z")
    report = box.upgrade_hub("0002")
    assert report.action == "unmigrated"
    assert "2 rows wait here with no value for goods.a, which it demands" in report.message
    box.drain()
    assert box.upgrade_hub("0002").action == "migrated"
    assert rows(hub, "a, c") == written
    assert box.counts()["dead"] == 0


def test_a_column_that_may_no_longer_be_empty_waits_for_boxes_of_the_release_before(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    shop.revision("0002", TEXTS, *REQUIRED["batch"])
    new, old = boxes(shop, tmp_path, hub, "new", "old")
    with open_hub(new.settings, hub.url) as link:
        reported(old, link, hub)
        report = new.upgrade_hub("0002")
        assert report.action == "unmigrated"
        assert "box old still writes no value for goods.a, which it demands" in report.message
        old.upgrade("0002")
        reported(old, link, hub)
        assert new.upgrade_hub("0002").action == "migrated"


_SHORTER = "type_=sa.String(3), existing_type=sa.String(20)"
NARROWED = {
    "batch": (f'{BATCH}batch.alter_column("a", {_SHORTER})',),
    "batch-anew": (
        'with op.batch_alter_table("goods", recreate="always") as batch:',
        f'    batch.alter_column("a", {_SHORTER})',
    ),
    "operation": (
        'if op.get_bind().dialect.name == "postgresql":',
        f'    op.alter_column("goods", "a", {_SHORTER})',
        "else:",
        f'    {BATCH}batch.alter_column("a", {_SHORTER})',
    ),
    "raw": (
        'if op.get_bind().dialect.name == "postgresql":',
        '    op.execute("ALTER TABLE goods ALTER COLUMN a TYPE varchar(3)")',
        "else:",
        f'    {BATCH}batch.alter_column("a", {_SHORTER})',
    ),
}


@pytest.mark.parametrize("way", NARROWED)
@pytest.mark.parametrize("first", ["box", "hub"])
def test_a_narrower_type_waits_by_every_way(
    shop: Shop, hub: HubDatabase, tmp_path: Path, way: str, first: str
) -> None:
    shop.revision("0002", {"a": String(3), "c": String(20)}, *NARROWED[way])
    (box,) = boxes(shop, tmp_path, hub, "box")
    short, long = box.add(a="abc"), box.add(a="abcd")
    report = box.upgrade("0002") if first == "box" else box.upgrade_hub("0002")
    assert report.action == "unmigrated"
    assert "1 row waits with a value of the column goods.a, which" in report.message
    box.drain()
    assert rows(hub, "a") == {short: ("abc",), long: ("abcd",)}
    box.execute("UPDATE goods SET a = 'ab' WHERE id = ?", long)
    box.drain()
    assert box.upgrade("0002").action == "migrated"
    assert box.upgrade_hub("0002").action == "migrated"
    assert rows(hub, "a") == {short: ("abc",), long: ("ab",)}
    assert box.counts()["dead"] == 0


def test_a_box_that_was_away_for_three_revisions_of_other_kinds_lands(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    """A wider type, a new column that has a default, a rename beside a column that goes."""
    wider: Columns = {"a": String(40), "c": String(20)}
    shop.revision("0002", wider, BATCH + 'batch.alter_column("a", type_=sa.String(40))')
    shop.revision("0003", {**wider, "n": Demanded()}, _NEW)
    shop.revision(
        "0004",
        {"b": String(40), "n": Demanded()},
        'op.execute("ALTER TABLE goods RENAME COLUMN a TO b")',
        BATCH + 'batch.drop_column("c")',
    )
    box, other = boxes(shop, tmp_path, hub, "box", "other")
    before = {box.add(a=f"a{n}", c=f"c{n}"): (f"a{n}", 7) for n in range(3)}
    bare = box.add(a="bare")
    other.upgrade("0004")
    assert other.upgrade_hub("0004").action == "migrated", "nobody has heard of the other box"
    written: dict[str, Sequence[object]] = {**before, bare: ("bare", 7)}
    written[other.add(b="x" * 40, n=1)] = ("x" * 40, 1)
    other.drain()
    box.drain()
    assert rows(hub, "b, n") == written
    kept = hub.execute("SELECT row_key, box->>'c' FROM sync_conflicts ORDER BY seq")
    assert [list(row) for row in kept] == [[key, f"c{n}"] for n, key in enumerate(before)]
    assert box.upgrade("0004").action == "migrated"
    written[box.add(b="at last", n=4)] = ("at last", 4)
    box.drain()
    assert rows(hub, "b, n") == written
    counts = box.counts()
    assert (counts["dead"], counts["pending"]) == (0, 0)


def test_a_build_that_does_not_ask_for_empty_values_is_found_out(
    shop: Shop, hub: HubDatabase, tmp_path: Path
) -> None:
    with weakened("empties-unasked"), pytest.raises(AssertionError):
        test_a_column_that_may_no_longer_be_empty_waits_for_rows_where_it_is(
            shop, hub, tmp_path, "batch"
        )


def command(
    box: Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str]:
    """Run ``edgepaas`` on *box*; returns its exit status and what it printed."""
    monkeypatch.setenv("EDGEPAAS_HOME", str(box.paths.home))
    box.settings.write(box.paths.env_contract)
    box.contract.write(box.paths.db_contract)
    capsys.readouterr()
    status = main(list(words))
    said = capsys.readouterr()
    return status, said.out + said.err


def test_a_box_that_is_gone_for_good_is_taken_out_by_a_command(
    shop: Shop,
    hub: HubDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It held contraction up for ever, and the way out was a DELETE by hand."""
    shop.revision("0002", {"c": String(20)}, DROPPED)
    new, old = boxes(shop, tmp_path, hub, "new", "old")

    def run(*words: str) -> tuple[int, str]:
        return command(new, monkeypatch, capsys, "nodes", *words)

    with open_hub(new.settings, hub.url) as link:
        reported(old, link, hub)
        report = new.upgrade_hub("0002")
        note_hub_conditions(new.paths, report)
        assert "box old still writes" in read_hub_conditions(new.paths).waiting
        status, said = run("forget", "old", "--yes")
        assert (status, "was heard" in said) == (1, True), said
        hub.execute("UPDATE nodes SET last_seen = now() - interval '1 day', rows_waiting = 3")
        status, said = run("--json")
        assert status == 0
        (found,) = json.loads(said)
        assert (found["name"], found["rows_waiting"], found["layouts"]) == ("old", 3, 1)
        assert run("forget", "nobody", "--yes")[0] == 1
        assert run("forget", "old")[0] == 2, "nobody is there to confirm it"
        status, said = run("forget", "old", "--yes", "--json")
        assert status == 0, said
        assert json.loads(said)["forgotten"]["node_id"] == old.node_id
        assert hub.number("SELECT count(*) FROM sync_layouts") == 0
        report = new.upgrade_hub("0002")
        assert report.action == "migrated"
        note_hub_conditions(new.paths, report)
        assert not read_hub_conditions(new.paths)
        # It comes back after all: nothing that waits on it is lost.
        kept = old.add(a="a", c="c")
        reported(old, link, hub)
        old.drain()
        assert rows(hub, "c") == {kept: ("c",)}
        assert hub.number("SELECT count(*) FROM sync_conflicts") == 1


def test_two_boxes_of_one_name_are_told_apart_by_their_ids(
    shop: Shop,
    hub: HubDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    new, old = boxes(shop, tmp_path, hub, "new", "old")
    with open_hub(new.settings, hub.url) as link:
        reported(old, link, hub)
        reported(new, link, hub)
    hub.execute("UPDATE nodes SET name = 'same', last_seen = now() - interval '1 day'")
    status, said = command(new, monkeypatch, capsys, "nodes", "forget", "same", "--yes")
    assert (status, "name one by its id" in said) == (1, True), said
    status, said = command(new, monkeypatch, capsys, "nodes", "forget", old.node_id, "--yes")
    assert status == 0, said
    assert hub.execute("SELECT node_id::text FROM nodes") == [[new.node_id]]


_PROGRAM = """
from pathlib import Path
from sqlalchemy import String
from tests.support.revised_shop import DROPPED, first_shop
shop = first_shop(Path({folder!r}))
shop.revision("0002", {{"c": String(20)}}, DROPPED)
application = shop.application({revision!r})
"""


def test_a_waiting_revision_goes_on_by_itself_when_the_rows_are_home(
    hub: HubDatabase, tmp_path: Path
) -> None:
    """A whole box is upgraded while PostgreSQL is away; nobody starts anything again."""
    scripts = tmp_path / "shop"
    scripts.mkdir()

    def install(revision: str) -> None:
        text = _PROGRAM.format(folder=str(scripts), revision=revision)
        (tmp_path / "shop_of_a_test.py").write_text(text)

    def columns() -> set[object]:
        found = hub.execute(
            "SELECT column_name::text FROM information_schema.columns WHERE table_name = 'goods'"
        )
        return {name for (name,) in found}

    install("0001")
    with Relay(hub.server.port, seed=1) as relay:
        box = LiveBox(
            tmp_path / "box",
            DATABASE_URL=relay.reroute(hub.url),
            USE_SQLITE="true",
            EDGEPAAS_APP="shop_of_a_test:application",
            environ={
                "PYTHONPATH": os.pathsep.join([weak_environ("quick")["PYTHONPATH"], str(tmp_path)])
            },
        )
        with box:
            until(lambda: columns() == {"id", "a", "c"}, "the tables of the first revision")
            relay.cut()
            with contextlib.closing(sqlite3.connect(box.paths.sqlite, timeout=10)) as file:
                for number in range(3):
                    file.execute("INSERT INTO goods VALUES (?, 'a', 'c')", (f"row {number}",))
                file.commit()
            until(lambda: box.waiting() == 3, "rows that wait")
        install("0002")
        with box:
            relay.heal()
            until(lambda: columns() == {"id", "c"}, "the second revision", 120)
            box.wait_drained()
            until(lambda: not read_hub_conditions(box.paths), "the end of the condition")
            assert "3 rows wait" in box.output()
    assert rows(hub, "c") == {f"row {number}": ("c",) for number in range(3)}
    assert hub.number("SELECT count(*) FROM sync_conflicts") == 0
