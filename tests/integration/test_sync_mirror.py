# SPDX-License-Identifier: Apache-2.0
"""The mirror: the hub's shared tables in the box's file, exactly, and never over what waits."""

import contextlib
import math
import tracemalloc
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    LargeBinary,
    SmallInteger,
    String,
    Table,
    Time,
    create_engine,
    insert,
)
from sqlalchemy.pool import NullPool

from edgepaas.database.model import new_metadata
from edgepaas.database.sqlite.connection import open_sqlite
from edgepaas.database.types import Json, Number, Text, UtcDateTime, Uuid, dump_json
from edgepaas.outbox.ledger import pending
from edgepaas.outbox.resending import agreed_rows
from edgepaas.pgdriver.connection import connect
from edgepaas.settings.urls import split_url
from edgepaas.sync.audit.comparison import compare_content
from edgepaas.sync.hub.connection import Hub
from edgepaas.sync.mirror import mirror as mirror_module
from edgepaas.sync.mirror.difference import apply
from edgepaas.sync.mirror.mirror import Mirror
from edgepaas.sync.mirror.ordered_rows import MirrorPostponed
from tests.support.forwarding import (
    PLAIN,
    TestBox,
    TestHub,
    box_at,
    document,
    make_hub,
    rows_of,
)
from tests.support.postgres_server import PostgresServer

KINDS = new_metadata()
EVERYTHING = Table(
    'every "kind"',
    KINDS,
    Column("wo'rd", Text(), primary_key=True),
    Column("at", UtcDateTime, primary_key=True),
    Column("ident", Uuid),
    Column("small", SmallInteger),
    Column("big", BigInteger),
    Column("real", Number),
    Column("plain", Double),
    Column("flag", Boolean),
    Column("blob", LargeBinary),
    Column("doc", Json),
    Column("local", DateTime),
    Column("day", Date),
    Column("hour", Time),
    Column("short", String(5)),
    info={"kind": "shared"},
)
ROWS: list[dict[str, Any]] = [
    {
        "wo'rd": word,
        "at": datetime(2026, 1, 31, 23, 59, 59, micro, tzinfo=UTC),
        "ident": uuid.UUID(int=number),
        "small": -3,
        "big": 2**62 + 1,
        "real": real,
        "plain": real,
        "flag": number % 2 == 0,
        "blob": b"\x00\xff\x80 'x'",
        "doc": doc,
        "local": datetime(1970, 1, 1, 0, 0, 0, micro),
        "day": date(1, 1, 1),
        "hour": time(23, 59, 59, micro),
        "short": "äöü😀z",
    }
    for number, (word, micro, real, doc) in enumerate(
        [
            ("", 0, 0.1 + 0.2, {"b": 1, "a": [1.5, None, True, "ü"], "": {}}),
            ("a", 999_999, -1.7976931348623157e308, [1e15, 1e-7, 100.0, 2**60]),
            ("Z'\"", 1, 5e-324, {}),
            ("é" * 100, 120_000, 1e16, "text"),
            ("\U0001f600", 7, 123456789.123456789, None),
            ("￿", 8, math.pi, {"k": "\\u0000 is not NUL", "z": "\n"}),
        ]
    )
]


@pytest.fixture(scope="module")
def template(postgres: PostgresServer) -> Iterator[TestHub]:
    """What each test's hub is a copy of."""
    found = make_hub(postgres)
    yield found
    postgres.drop_database(found.name)


@pytest.fixture
def hub(postgres: PostgresServer, template: TestHub) -> Iterator[TestHub]:
    """A hub with places and sensors."""
    found = TestHub(postgres, f"m_{uuid.uuid4().hex}")
    postgres.execute(f'CREATE DATABASE "{found.name}" TEMPLATE "{template.name}"')
    yield found
    postgres.drop_database(found.name)


@pytest.fixture
def link(hub: TestHub) -> Iterator[Hub]:
    """A connection to it."""
    with hub.link() as found:
        yield found


@pytest.fixture
def box(tmp_path: Path) -> Iterator[TestBox]:
    """A box with the same tables."""
    with box_at(tmp_path / "box.db") as found:
        yield found


def place(hub: TestHub, name: str, note: str = "n") -> str:
    """Make a place on the hub, as another box would have."""
    identity = str(uuid.uuid4())
    hub.ask(f"INSERT INTO places (id, name, note) VALUES ('{identity}', '{name}', '{note}')")
    return identity


def names(box: TestBox) -> list[str]:
    """The places that the box knows."""
    return [row[0] for row in rows_of(box.file, "SELECT name FROM places ORDER BY name")]


def test_inserts_changes_and_deletes_arrive_and_nothing_is_captured(
    hub: TestHub, link: Hub, box: TestBox
) -> None:
    ids = [place(hub, name) for name in ("one", "two", "three")]
    mirror = Mirror(document())
    assert mirror.run(box.file, link).written == 3
    hub.ask(f"UPDATE places SET note = 'changed' WHERE id = '{ids[0]}'")
    hub.ask(f"DELETE FROM places WHERE id = '{ids[1]}'")
    place(hub, "four")
    passed = mirror.run(box.file, link)
    assert (passed.rows, passed.written, passed.deleted, passed.skipped) == (3, 2, 1, 0)
    assert rows_of(box.file, "SELECT name, note FROM places ORDER BY name") == [
        ("four", "n"),
        ("one", "changed"),
        ("three", "n"),
    ]
    assert pending(box.file) == 0


def test_every_type_comes_as_the_boxs_own_types_store_it(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """Written by SQLAlchemy on both sides, no row differs; taken away, all come back the same."""
    hub = make_hub(postgres, KINDS)

    def dial() -> Any:
        return connect(split_url(hub.url), deadline=5, tls=PLAIN)

    server = create_engine(
        "postgresql+pg8000://", creator=dial, poolclass=NullPool, json_serializer=dump_json
    )
    box = TestBox(tmp_path / "box.db", KINDS)
    file = create_engine(
        "sqlite://", creator=lambda: open_sqlite(box.path), poolclass=NullPool,
        json_serializer=dump_json,
    )  # fmt: skip
    for engine in (server, file):
        with engine.begin() as connection:
            connection.execute(insert(EVERYTHING), ROWS)
        engine.dispose()
    with hub.link() as link:
        box.drain_all(link)
        quoted = ", ".join(f'quote("{column.name}")' for column in EVERYTHING.columns)
        look = f'SELECT {quoted} FROM "every ""kind""" ORDER BY 1, 2'
        before = rows_of(box.file, look)
        assert len(before) == len(ROWS)
        mirror = Mirror(document(KINDS))
        assert mirror.run(box.file, link).written == 0
        # Both sides make the same digest of each, which is what they agree on.
        found = compare_content(box.file, link, document(KINDS)["tables"], {}, most=None)
        assert (found.shared.same, found.shared.unjudged) == (len(ROWS), [])
        agreed = 'SELECT count(digest) FROM "outbox_agreed_every ""kind"""'
        assert rows_of(box.file, agreed) == [(len(ROWS),)]
        box.write('DELETE FROM "every ""kind"""')
        box.file.execute("DELETE FROM outbox WHERE seq > (SELECT confirmed_seq FROM outbox_state)")
        agreed_rows.forget_all(box.file)
        mirror.compare_everything()
        assert mirror.run(box.file, link).written == len(ROWS)
        assert rows_of(box.file, look) == before
    box.close()
    postgres.drop_database(hub.name)


def test_an_unchanged_table_costs_one_row(hub: TestHub, link: Hub, box: TestBox) -> None:
    place(hub, "one")
    mirror = Mirror(document())
    mirror.run(box.file, link)
    asked: list[str] = []
    query = link.query

    def counted(sql: str, *parameters: Any) -> list[list[Any]]:
        asked.append(sql)
        return query(sql, *parameters)

    link.query = counted  # type: ignore[method-assign]
    assert mirror.run(box.file, link).rows == 1
    assert len(asked) == 1


def test_what_the_box_changed_is_compared_although_the_hub_is_as_it_was(
    hub: TestHub, link: Hub, box: TestBox
) -> None:
    """A change that the hub refused or overruled leaves its fingerprint as it was."""
    identity = place(hub, "one")
    mirror = Mirror(document())
    mirror.run(box.file, link)
    box.write(f"UPDATE places SET note = 'mine' WHERE id = '{identity}'")
    box.drain_all(link)
    hub.ask("UPDATE places SET note = 'n'")
    mirror.run(box.file, link)
    assert rows_of(box.file, "SELECT note FROM places") == [("n",)]


def test_a_key_that_waits_is_left_alone_and_taken_up_later(
    hub: TestHub, link: Hub, box: TestBox
) -> None:
    """Changed, deleted and new here: the hub's version comes only after they went home."""
    changed, deleted = place(hub, "changed"), place(hub, "deleted")
    mirror = Mirror(document())
    mirror.run(box.file, link)
    box.write(f"UPDATE places SET note = 'mine' WHERE id = '{changed}'")
    box.write(f"DELETE FROM places WHERE id = '{deleted}'")
    box.place("new")
    hub.ask("UPDATE places SET note = 'hub', first = 7")
    place(hub, "other")
    passed = mirror.run(box.file, link)
    assert passed.skipped == 3
    assert names(box) == ["changed", "new", "other"]
    assert rows_of(box.file, "SELECT note FROM places WHERE name = 'changed'") == [("mine",)]
    box.drain_all(link)
    assert mirror.run(box.file, link).skipped == 0
    assert names(box) == ["changed", "new", "other"]
    assert rows_of(box.file, "SELECT note, first FROM places WHERE name = 'changed'") == [
        ("mine", 7)
    ]


def test_a_row_written_between_the_comparison_and_the_commit_is_left_alone(
    hub: TestHub, link: Hub, box: TestBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits is asked for inside the transaction that writes."""
    identity = place(hub, "one")
    mirror = Mirror(document())
    mirror.run(box.file, link)
    hub.ask("UPDATE places SET note = 'hub'")

    def late(*arguments: Any) -> Any:
        box.write(f"UPDATE places SET note = 'late' WHERE id = '{identity}'")
        return apply(*arguments)

    monkeypatch.setattr(mirror_module, "apply", late)
    assert mirror.run(box.file, link).skipped == 1
    assert rows_of(box.file, "SELECT note FROM places") == [("late",)]


def test_children_follow_their_parents_and_a_waiting_child_keeps_its_parent(
    hub: TestHub, link: Hub, box: TestBox
) -> None:
    parent = place(hub, "parent")
    hub.ask(f"INSERT INTO sensors VALUES ('{uuid.uuid4()}', '{parent}')")
    mirror = Mirror(document())
    assert mirror.run(box.file, link).written == 2
    box.write("INSERT INTO sensors VALUES (?, ?)", (str(uuid.uuid4()), parent))
    hub.ask("DELETE FROM sensors")
    hub.ask("DELETE FROM places")
    assert mirror.run(box.file, link).skipped > 0
    assert names(box) == ["parent"]
    assert len(rows_of(box.file, "SELECT 1 FROM sensors")) >= 1
    assert rows_of(box.file, "PRAGMA foreign_key_check") == []


def test_rows_that_swap_a_unique_name_do_not_stop_the_others(
    hub: TestHub, link: Hub, box: TestBox
) -> None:
    one, two = place(hub, "one"), place(hub, "two")
    mirror = Mirror(document())
    mirror.run(box.file, link)
    hub.ask("UPDATE places SET name = 'x' WHERE name = 'one'")
    hub.ask("UPDATE places SET name = 'one' WHERE name = 'two'")
    hub.ask("UPDATE places SET name = 'two' WHERE name = 'x'")
    place(hub, "three")
    assert mirror.run(box.file, link).skipped == 2
    assert dict(rows_of(box.file, "SELECT name, id FROM places")).keys() == {"one", "two", "three"}
    hub.ask(f"DELETE FROM places WHERE id = '{one}'")
    mirror.run(box.file, link)
    assert dict(rows_of(box.file, "SELECT name, id FROM places"))["one"] == two
    assert names(box) == ["one", "three"]


def test_a_value_that_the_box_cannot_hold_leaves_its_row_as_it_is(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """An infinite moment of somebody's own SQL: the other rows are mirrored all the same."""
    hub = make_hub(postgres, KINDS)
    with hub.link() as link, contextlib.closing(TestBox(tmp_path / "box.db", KINDS)) as box:
        for word, local in (("a", "infinity"), ("b", "2026-01-01")):
            hub.ask(
                'INSERT INTO "every ""kind""" ("wo\'\'rd", at, local) '.replace("''", "'")
                + f"VALUES ('{word}', '2026-01-01Z', '{local}')"
            )
        mirror = Mirror(document(KINDS))
        assert mirror.run(box.file, link).written == 1
        assert mirror.run(box.file, link).deleted == 0
    postgres.drop_database(hub.name)


def test_a_large_difference_takes_no_memory_to_speak_of(
    hub: TestHub, link: Hub, box: TestBox
) -> None:
    """What is read and put aside at a time is a page, whatever there is."""
    hub.ask(
        "INSERT INTO places (id, name, note) SELECT gen_random_uuid(), 'p' || n, "
        "repeat('x', 500) FROM generate_series(1, 6000) AS n"
    )
    mirror = Mirror(document())
    tracemalloc.start()
    try:
        assert mirror.run(box.file, link).written == 6000
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 3_000_000, most


def test_large_rows_take_no_more_memory_than_many_small_ones(
    hub: TestHub, link: Hub, box: TestBox
) -> None:
    """New ones, and changed ones that the box has as well; small ones among them too."""
    hub.ask(
        "INSERT INTO places (id, name, note) SELECT gen_random_uuid(), 'p' || n, "
        "repeat('x', CASE WHEN n % 10 = 0 THEN 10 ELSE 200000 END) FROM generate_series(1, 120) n"
    )
    mirror = Mirror(document())
    tracemalloc.start()
    try:
        assert mirror.run(box.file, link).written == 120
        hub.ask("UPDATE places SET note = note || 'y'")
        assert mirror.run(box.file, link).written == 120
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 9_000_000, most
    kept = "SELECT name, length(note), substr(note, -2) FROM places ORDER BY name"
    ask = 'SELECT name, length(note), right(note, 2) FROM places ORDER BY name COLLATE "C"'
    assert rows_of(box.file, kept) == [tuple(row) for row in hub.ask(ask)]


def test_too_many_waiting_rows_put_the_mirror_off(
    hub: TestHub, link: Hub, box: TestBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(hub, "one")
    box.samples(*range(20))
    monkeypatch.setattr(mirror_module, "MAX_WAITING", 10)
    with pytest.raises(MirrorPostponed):
        Mirror(document()).run(box.file, link)
    assert names(box) == []


def test_a_hub_of_an_older_revision_mirrors_the_columns_that_it_has(
    hub: TestHub, link: Hub, box: TestBox
) -> None:
    hub.ask("ALTER TABLE places DROP COLUMN origin")
    hub.ask("DROP TABLE sensors")
    place(hub, "one")
    assert Mirror(document()).run(box.file, link).written == 1
    assert names(box) == ["one"]
