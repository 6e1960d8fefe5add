# SPDX-License-Identifier: Apache-2.0
"""What a transaction on PostgreSQL changed is captured, whichever way it was written.

Each test ends by replaying what was captured on empty tables: that has to give what is stored.
"""

import io
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseFull
from edgepaas.marks.rider import UNMARKED
from tests.support.captured_box import CapturedBox
from tests.support.forwarding import Everything, Mood, Place, Sample, Sensor, TestBox, TestHub
from tests.support.weaken import weakened


@pytest.fixture
def captured(hub: TestHub, tmp_path: Path) -> Iterator[CapturedBox]:
    box = CapturedBox(tmp_path / "primary", hub)
    yield box
    box.close()


def ops(captured: CapturedBox) -> list[str]:
    return [f"{change.op} {change.table}" for change in captured.recorder.changes()]


def place(name: str, **columns: Any) -> Place:
    return Place(id=uuid.uuid5(uuid.NAMESPACE_DNS, name), name=name, **columns)


def add_places(captured: CapturedBox, *names: str) -> None:
    captured.write(lambda session: session.add_all([place(name) for name in names]))


# -- each way of writing --


def test_the_orm_is_captured_in_one_transaction(captured: CapturedBox) -> None:
    def work(session: Session) -> None:
        garden = place("garden", labels={"b": [1.5, None], "a": "ä"}, first=3)
        session.add_all([garden, Sample(id=uuid.uuid4(), value=0.1 + 0.2, text='q"\\,()\n\t')])
        session.flush()
        session.add(Sensor(id=uuid.uuid4(), place_id=garden.id))

    captured.write(work)
    captured.write(lambda session: session.execute(update(Place).values(note="changed")))

    def remove(session: Session) -> None:
        session.delete(session.scalars(select(Sensor)).one())
        session.delete(session.scalars(select(Place)).one())

    captured.write(remove)
    assert ops(captured) == [
        *("I places", "I samples", "I sensors", "U places", "D sensors", "D places")
    ] or sorted(ops(captured)[:3]) == ["I places", "I samples", "I sensors"]
    assert len(captured.recorder.written) == 3
    captured.assert_complete()


def test_core_and_bulk_statements_are_captured(captured: CapturedBox) -> None:
    rows = [{"id": uuid.uuid4(), "value": float(n), "text": f"n{n}"} for n in range(2500)]
    captured.write(lambda session: session.execute(insert(Sample), rows))
    captured.write(lambda session: session.bulk_insert_mappings(Sample, rows_of(3)))
    captured.write(
        lambda session: session.bulk_update_mappings(
            Sample,
            [{"id": row["id"], "text": "bulk"} for row in rows[:20]],
        )
    )
    captured.write(lambda session: session.execute(delete(Sample).where(Sample.value < 10)))
    captured.assert_complete()
    assert len(captured.replayed()) == captured.hub.one("SELECT count(*) FROM samples")


def rows_of(count: int) -> list[dict[str, Any]]:
    return [{"id": uuid.uuid4(), "value": 1000.0 + n} for n in range(count)]


def test_an_insert_that_meets_a_row_is_captured_as_what_it_did(captured: CapturedBox) -> None:
    add_places(captured, "a", "b")

    def work(session: Session) -> None:
        rows = [{"id": one.id, "name": one.name, "note": "met"} for one in (place("a"), place("c"))]
        statement = upsert(Place).values(rows)
        session.execute(
            statement.on_conflict_do_update(
                index_elements=[Place.id], set_={"note": statement.excluded.note}
            )
        )
        session.execute(
            upsert(Place).values(id=place("b").id, name="other").on_conflict_do_nothing()
        )

    captured.write(work)
    assert sorted(ops(captured)[2:]) == ["I places", "U places"]
    captured.assert_complete()


def test_raw_sql_is_captured(captured: CapturedBox) -> None:
    add_places(captured, "a", "b", "c")
    captured.run(
        "UPDATE places SET note = 'x' WHERE name <> 'a'; DELETE FROM places WHERE name = 'b'",
        "INSERT INTO samples (id, value) SELECT gen_random_uuid(), n FROM generate_series(1, 40) n",
        "WITH gone AS (DELETE FROM samples WHERE value > 35 RETURNING id) "
        "INSERT INTO samples (id, text) SELECT gen_random_uuid(), id::text FROM gone",
    )
    captured.assert_complete()
    assert captured.hub.one("SELECT count(*) FROM samples") == 40


def test_merge_is_captured(captured: CapturedBox) -> None:
    add_places(captured, "a", "b", "c")
    captured.run(
        "MERGE INTO places AS p USING (VALUES ('a', 1), ('b', 0), ('d', 1)) AS v(name, keep) "
        "ON p.name = v.name WHEN MATCHED AND v.keep = 0 THEN DELETE "
        "WHEN MATCHED THEN UPDATE SET note = 'merged' "
        "WHEN NOT MATCHED THEN INSERT (id, name) VALUES (gen_random_uuid(), v.name)"
    )
    assert sorted(ops(captured)[3:]) == ["D places", "I places", "U places"]
    captured.assert_complete()


def test_copy_is_captured(captured: CapturedBox) -> None:
    lines = "".join(f"{uuid.uuid4()}\t{n}.5\n" for n in range(300))

    def work(session: Session) -> None:
        driver: Any = session.connection().connection.dbapi_connection
        driver.cursor().execute("COPY samples (id, value) FROM STDIN", stream=io.StringIO(lines))

    captured.write(work)
    assert len(captured.recorder.changes()) == 300
    captured.assert_complete()


def test_a_cascade_is_captured(captured: CapturedBox) -> None:
    ((constraint,),) = captured.hub.ask(
        "SELECT conname FROM pg_constraint WHERE conrelid = 'sensors'::regclass AND contype = 'f'"
    )
    captured.hub.ask(f"ALTER TABLE sensors DROP CONSTRAINT {constraint}")
    captured.hub.ask(
        "ALTER TABLE sensors ADD FOREIGN KEY (place_id) REFERENCES places "
        "ON DELETE CASCADE ON UPDATE CASCADE"
    )
    add_places(captured, "a", "b", "c")
    for name in "aabbbc":
        identity = place(name).id
        captured.run(f"INSERT INTO sensors VALUES (gen_random_uuid(), '{identity}')")
    captured.run("UPDATE places SET id = gen_random_uuid() WHERE name <> 'a'")
    captured.run("DELETE FROM places WHERE name <> 'b'")
    assert captured.hub.one("SELECT count(*) FROM sensors") == 3
    captured.assert_complete()


def test_what_a_trigger_of_the_application_writes_is_captured(captured: CapturedBox) -> None:
    """Deferred to COMMIT as well: the look comes after it."""
    captured.hub.ask(
        "CREATE FUNCTION note_place() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO samples (id, text) VALUES (gen_random_uuid(), NEW.name); RETURN NULL; END $$"
    )
    captured.hub.ask(
        "CREATE CONSTRAINT TRIGGER later AFTER INSERT ON places DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION note_place()"
    )
    try:
        add_places(captured, "a", "b")
        assert sorted(ops(captured)) == ["I places", "I places", "I samples", "I samples"]
        captured.assert_complete()
    finally:
        captured.hub.ask("DROP FUNCTION note_place() CASCADE")


def test_a_savepoint_that_is_rolled_back_takes_its_changes_with_it(captured: CapturedBox) -> None:
    def work(session: Session) -> None:
        session.add(place("kept"))
        session.flush()
        inner = session.begin_nested()
        session.add_all([place("undone"), Sample(id=uuid.uuid4())])
        session.flush()
        deeper = session.begin_nested()
        session.execute(delete(Place))
        deeper.rollback()
        inner.rollback()
        with session.begin_nested():
            session.execute(update(Place).values(note="inner"))

    captured.write(work)
    assert ops(captured) == ["I places", "U places"]
    captured.assert_complete()


def test_a_transaction_that_is_rolled_back_leaves_nothing(captured: CapturedBox) -> None:
    def work(session: Session) -> None:
        session.add(place("a"))
        session.flush()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        captured.write(work)
    add_places(captured, "b")
    assert ops(captured) == ["I places"]
    captured.assert_complete()


def test_many_statements_of_one_transaction_keep_their_order(captured: CapturedBox) -> None:
    """More than one setting holds: each is full after some 32 KB."""

    def work(session: Session) -> None:
        for n in range(400):
            session.execute(insert(Sample).values(id=uuid.UUID(int=n), text="x" * 40))
            if n % 3 == 0:
                session.execute(update(Sample).values(value=n).where(Sample.id == uuid.UUID(int=n)))
            if n % 5 == 0:
                session.execute(delete(Sample).where(Sample.id == uuid.UUID(int=n)))

    captured.write(work)
    assert len(captured.recorder.changes()) == 400 + 134 + 80
    captured.assert_complete()


def test_truncate_is_refused_with_the_way_out(captured: CapturedBox) -> None:
    add_places(captured, "a")
    with pytest.raises(DBAPIError, match="use DELETE"):
        captured.run("TRUNCATE places CASCADE")
    captured.assert_complete()
    captured.hub.ask("TRUNCATE places CASCADE")  # for whoever keeps no journal


# -- values --


def test_every_value_is_what_sqlite_would_have_captured(
    captured: CapturedBox, box: TestBox
) -> None:
    """The same rows go through the ORM into both; SQLite's own outbox is what is compared to."""
    rows = everything(random.Random(5), 300)
    captured.write(lambda session: session.execute(insert(Everything), rows))
    written = {change.values[:2]: change.values for change in captured.recorder.changes()}
    expected = captured_in_sqlite(box, rows)
    assert written.keys() == expected.keys()
    for key, values in expected.items():
        found = written[key]
        assert [same(a, b) for a, b in zip(found, values, strict=True)] == [True] * len(values), (
            found,
            values,
        )


def test_the_sign_of_zero_is_kept(captured: CapturedBox) -> None:
    """SQLite's REAL columns drop it; PostgreSQL does not."""
    captured.run("INSERT INTO samples (id, value) VALUES (gen_random_uuid(), '-0')")
    assert "-0.0" in map(str, captured.recorder.changes()[0].values)
    captured.assert_complete()


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and repr(one) == repr(other)


def captured_in_sqlite(box: TestBox, rows: list[dict[str, Any]]) -> dict[Any, tuple[Any, ...]]:
    """Return what the outbox has after *rows* were written by SQLAlchemy, by the first two."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import StaticPool

    engine = create_engine("sqlite://", creator=lambda: box.file, poolclass=StaticPool)
    with Session(engine) as session:
        session.execute(insert(Everything), rows)
        session.commit()
    count = len(Everything.__table__.columns)
    names = ", ".join(f"v{n}" for n in range(count))
    found = box.file.execute(f"SELECT {names} FROM outbox ORDER BY seq").fetchall()
    return {tuple(row[:2]): tuple(row) for row in found}


def everything(chance: random.Random, count: int) -> list[dict[str, Any]]:
    """Return rows with a value, an odd one, or none, in each column."""
    texts = ["", " ", "NULL", 'a"b', "a\\b", "(,)", "ä☃\n\t\r", "'", "{}", "\x01\x7f", "x" * 3000]
    reals = [0.0, 0.1 + 0.2, 5e-324, 1.7976931348623157e308, 1e16, -1.5, 1e-7, 123456789.0]
    documents = [
        {},
        {"b": [1, 2.5, None, True, 'ä\n"\\'], "a": {"deep": [{}]}},
        {"big": 2**70, "small": 1e-10, "text": "\x01"},
    ]

    def some(*values: Any) -> Any:
        return chance.choice([None, *values])

    rows = []
    for n in range(count):
        moment = datetime(1, 1, 2, tzinfo=UTC) + timedelta(
            microseconds=chance.randrange(10**6 * 86400 * 365 * 9990)
        )
        rows.append(
            {
                "word": f"{chance.choice(texts)}{n}",
                "number": chance.randrange(-(2**31), 2**31),
                "ident": some(uuid.UUID(int=chance.getrandbits(128))),
                "text": some(*texts),
                "small": some(0, -1, 2**31 - 1, -(2**31)),
                "big": some(0, 2**63 - 1, -(2**63)),
                "real": some(*reals, chance.uniform(-1e9, 1e9), chance.random() * 1e-300),
                "flag": some(True, False),
                "blob": some(b"", b'\x00\xff\\"', chance.randbytes(50)),
                "doc": some(*documents),
                "moment": some(moment, *(moment.replace(microsecond=n) for n in (0, 100))),
                "local": some(moment.replace(tzinfo=None), datetime(2026, 1, 1)),
                "day": some(date(1, 1, 1), date(9999, 12, 31), date(2026, 2, 28)),
                "hour": some(time(0, 0), time(23, 59, 59, 999999), time(12, 30, 0, 500)),
                "mood": some(Mood.calm, Mood.wild),
                "price": some(*map(Decimal, ("0", "-0.5", "1.10", "9999999999.99"))),
                "fine": some(*map(Decimal, ("0", "1E-12", "-123456789012345678.1"))),
                "zoned": some(
                    moment, moment.astimezone(timezone(timedelta(hours=-3, minutes=-30)))
                ),
                "plain": some(uuid.UUID(int=chance.getrandbits(128))),
            }
        )
    return rows


def test_settings_of_the_session_change_no_value(captured: CapturedBox) -> None:
    """An application may have set what PostgreSQL's text depends on."""
    captured.run(
        "SET LOCAL timezone = 'America/St_Johns'",
        "SET LOCAL datestyle = 'German'",
        "SET LOCAL extra_float_digits = -10",
        "SET LOCAL bytea_output = 'escape'",
        'INSERT INTO "all ""kinds""" ("wo\'rd", "select", "real", blob, moment, local, day) VALUES '
        "('w', 1, 0.1::float8 + 0.2::float8, '\\x00ff', '2026-07-01 12:00+00', "
        "'2026-07-01 12:00', '2026-07-01')",
    )
    (change,) = captured.recorder.changes()
    assert 0.1 + 0.2 in change.values and b"\x00\xff" in change.values
    assert "2026-07-01T12:00:00.000000Z" in change.values
    captured.assert_complete()


def test_columns_that_were_dropped_or_added_on_the_hub_confuse_nothing(
    hub: TestHub, tmp_path: Path
) -> None:
    hub.ask("ALTER TABLE places ADD junk text")
    hub.ask("ALTER TABLE places DROP junk")
    hub.ask("ALTER TABLE places DROP note")
    hub.ask("ALTER TABLE places ADD newer int DEFAULT 7")
    hub.ask("ALTER TABLE places ADD note text")
    box = CapturedBox(tmp_path / "primary", hub)
    try:
        add_places(box, "a", "b")
        box.write(lambda session: session.execute(update(Place).values(note="n", first=1)))
        assert len(box.replayed()) == 2
        box.assert_complete()
    finally:
        box.close()


# -- order, marks, and what goes wrong --


def test_what_waits_for_a_row_gets_the_later_number(captured: CapturedBox) -> None:
    """Two transactions that change one row are in the order in which PostgreSQL ran them."""
    add_places(captured, "a")
    threads = [
        threading.Thread(
            target=lambda n=n: [
                captured.write(
                    lambda session: session.execute(update(Place).values(note=f"{n}.{m}"))  # noqa: B023
                )
                for m in range(25)
            ]
        )
        for n in range(4)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join(120)
    assert len(captured.recorder.written) == 101
    captured.assert_complete()


def test_each_transaction_names_where_it_stands_in_its_stream(captured: CapturedBox) -> None:
    for n in range(5):
        add_places(captured, f"p{n}")
    marks = dict(captured.hub.ask("SELECT stream_id::text, mark FROM sync_connections"))
    positions = [one.position for one in captured.recorder.written]
    assert [one.transactions for one in positions] == [1, 2, 3, 4, 5]
    assert marks == {positions[0].stream_id: 5}


def test_a_mark_that_does_not_move_is_a_part_of_the_next_stream(captured: CapturedBox) -> None:
    add_places(captured, "a", "b")
    captured.hub.ask("UPDATE sync_connections SET mark = 0")
    add_places(captured, "c")
    add_places(captured, "d")
    second, third = (one.position for one in captured.recorder.written[1:])
    assert second.stream_id == third.stream_id != captured.recorder.written[0].position.stream_id
    assert (second.transactions, third.transactions) == (1, 2)
    marks = dict(captured.hub.ask("SELECT stream_id::text, mark FROM sync_connections"))
    assert marks[third.stream_id] == 2


def test_what_has_no_mark_is_kept_all_the_same(captured: CapturedBox) -> None:
    """The hub's table of marks is gone, as of a restore of some tables; capture still works."""
    add_places(captured, "a")
    captured.hub.ask("ALTER TABLE sync_connections RENAME TO elsewhere")
    with pytest.raises(DatabaseError):
        add_places(captured, "b")
    add_places(captured, "c")
    captured.hub.ask("ALTER TABLE elsewhere RENAME TO sync_connections")
    assert captured.recorder.written[-1].position == UNMARKED
    captured.assert_complete()


def test_a_transaction_that_writes_no_forwarded_row_is_not_kept(captured: CapturedBox) -> None:
    captured.run("CREATE TABLE local_thing (n int)", "INSERT INTO local_thing VALUES (1)")
    captured.hub.ask("DROP TABLE local_thing")
    assert captured.recorder.written == []


def test_nothing_is_committed_where_nothing_can_be_kept(captured: CapturedBox) -> None:
    captured.recorder.refuses = DatabaseFull("the journal has no room")
    with pytest.raises(DatabaseFull):
        add_places(captured, "a")
    captured.recorder.refuses = None
    assert captured.hub.one("SELECT count(*) FROM places") == 0
    add_places(captured, "b")
    captured.assert_complete()


def test_what_cannot_be_kept_is_not_acknowledged(captured: CapturedBox) -> None:
    """It is stored all the same; the connection goes on, and so do its marks."""
    add_places(captured, "a")
    captured.recorder.fails = DatabaseFull("the journal has no room")
    with pytest.raises(DatabaseFull):
        add_places(captured, "b")
    captured.recorder.fails = None
    add_places(captured, "c")
    assert captured.hub.one("SELECT count(*) FROM places") == 3
    assert captured.recorder.written[-1].position.transactions == 3


# -- triggers that are gone --


@pytest.mark.parametrize(
    "harm",
    [
        "DROP TRIGGER edgepaas_capture_insert ON places",
        "ALTER TABLE places DISABLE TRIGGER edgepaas_capture_update",
        "ALTER TABLE samples DISABLE TRIGGER ALL",
        "DROP FUNCTION edgepaas_capture() CASCADE",
        "DROP FUNCTION edgepaas_captured(oid[])",
        "CREATE TABLE sensors_2 (LIKE sensors INCLUDING ALL); DROP TABLE sensors; "
        "ALTER TABLE sensors_2 RENAME TO sensors",
    ],
)
def test_nothing_is_acknowledged_that_was_not_captured(captured: CapturedBox, harm: str) -> None:
    """The COMMIT is refused, a look is asked for, and that puts the triggers back."""
    add_places(captured, "a")
    captured.hub.ask(harm)
    with pytest.raises(DatabaseBusy):
        add_places(captured, "b")
    assert captured.suspected == 1
    captured.database.compare_marks()
    add_places(captured, "c")
    captured.write(lambda session: session.execute(update(Place).values(note="n")))
    names = [row[0] for row in captured.hub.ask("SELECT name FROM places ORDER BY 1")]
    assert names == ["a", "c"]
    captured.assert_complete()


def test_a_build_that_commits_what_was_not_captured_is_found_out(
    hub: TestHub, tmp_path: Path
) -> None:
    with weakened("unchecked-capture"):
        box = CapturedBox(tmp_path / "primary", hub)
        try:
            add_places(box, "a")
            hub.ask("DROP TRIGGER edgepaas_capture_insert ON places")
            add_places(box, "b")
            assert len(box.stored()) == 2
            with pytest.raises(AssertionError):
                box.assert_complete()
        finally:
            box.close()


def test_a_table_in_use_keeps_the_triggers_from_coming_back_for_a_while(
    captured: CapturedBox,
) -> None:
    """Nothing is acknowledged meanwhile, and the next look mends it."""
    add_places(captured, "a")
    captured.hub.ask("DROP TRIGGER edgepaas_capture_insert ON places")
    with captured.hub.link() as link:
        link.run([("BEGIN", ()), ("UPDATE places SET note = 'held'", ())])
        captured.database.compare_marks()
        with pytest.raises(DatabaseBusy):
            captured.run("INSERT INTO samples (id) VALUES (gen_random_uuid())")
        link.run([("ROLLBACK", ())])
    captured.database.compare_marks()
    add_places(captured, "b")
    captured.assert_complete()


def test_a_box_that_may_not_migrate_says_what_is_missing(hub: TestHub, tmp_path: Path) -> None:
    hub.ask("DROP TRIGGER edgepaas_capture_insert ON places")
    box = CapturedBox(tmp_path / "primary", hub, may_mend=False)
    try:
        add_places(box, "a")
        assert "RUN_MIGRATIONS=false" in box.upkeep.why_not
        assert box.recorder.written == []
        # Another box, which may, makes the triggers; this one finds them.
        other = CapturedBox(tmp_path / "other", hub)
        add_places(other, "b")
        other.close()
        box.database.compare_marks()
        assert box.upkeep.why_not == ""
        add_places(box, "c")
        assert ops(box) == ["I places"]
    finally:
        box.close()


def test_others_pay_for_no_capture_and_leave_none(captured: CapturedBox) -> None:
    """The drainer and foreign programs do not ask for it."""
    add_places(captured, "a")
    with captured.hub.link() as link:
        found = link.run(
            [
                ("BEGIN", ()),
                ("INSERT INTO samples (id) VALUES (gen_random_uuid())", ()),
                ("SELECT coalesce(current_setting('edgepaas.rows_0', true), '')", ()),
                ("ROLLBACK", ()),
            ]
        )
    assert found[2].rows == [[""]]


def test_random_writes_are_captured_to_the_last_value(
    captured: CapturedBox, seed: int = 11
) -> None:
    """Whatever mixture of statements, savepoints and failures a transaction holds."""
    chance = random.Random(seed)
    add_places(captured, *(f"p{n}" for n in range(12)))
    one = chance.randrange
    makers: list[Callable[[], str]] = [
        lambda: (
            f"INSERT INTO samples (id, value, text) SELECT gen_random_uuid(), n, 't{one(9)}' "
            f"FROM generate_series(1, {one(6)}) n"
        ),
        lambda: f"UPDATE samples SET value = value + 1 WHERE value < {one(7)}",
        lambda: f"DELETE FROM samples WHERE value > {one(3, 12)}",
        lambda: f"UPDATE places SET note = 'n{one(99)}', first = 1 WHERE name < 'p{one(10)}'",
        lambda: "UPDATE places SET id = gen_random_uuid() WHERE name = 'p3'",
        lambda: f"DELETE FROM places WHERE name = 'p{one(10)}'",
        lambda: (
            f"INSERT INTO places (id, name) VALUES (gen_random_uuid(), 'p{one(10)}') "
            "ON CONFLICT (name) DO UPDATE SET note = 'again'"
        ),
    ]
    for _ in range(60):
        statements, depth = [], 0
        for _ in range(chance.randrange(1, 9)):
            if chance.random() < 0.25:
                depth += 1
                statements.append(f"SAVEPOINT s{depth}")
            statements.append(chance.choice(makers)())
            if depth and chance.random() < 0.4:
                word = chance.choice(["ROLLBACK TO SAVEPOINT", "RELEASE SAVEPOINT"])
                statements.append(f"{word} s{depth}")
                depth -= word.startswith("RELEASE")
        captured.run(*statements)
    assert len(captured.recorder.changes()) > 100
    captured.assert_complete()
