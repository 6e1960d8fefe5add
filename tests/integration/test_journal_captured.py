# SPDX-License-Identifier: Apache-2.0
"""What is not appended is in the journal as well: the ORM's writes, Core's, raw SQL's."""

import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from edgepaas.errors import DatabaseError, DatabaseFull
from edgepaas.files.paths import Paths
from edgepaas.marks.record import lost_rows
from edgepaas.outbox.hub_capture import keeping
from edgepaas.outbox.journal import group_writer
from edgepaas.outbox.layout import forwarded_layouts, read_document
from edgepaas.service.hub_capture import capture_on_hub
from edgepaas.sync.mirror.stored_values import stored_column
from edgepaas.telemetry.models import DEVICES, READINGS
from tests.bench.counting_relay import CountingRelay
from tests.support.captured_process import STEPS, add_device
from tests.support.journaled_box import (
    MORNING,
    JournaledBox,
    append,
    device,
    journaled_box,
    prepare,
    reading,
)
from tests.support.postgres_server import PostgresServer
from tests.support.weaken import weakened


@pytest.fixture
def url(paths: Paths, postgres_url: str) -> str:
    """A database at head."""
    prepare(paths, postgres_url)
    return postgres_url


@pytest.fixture
def box(paths: Paths, url: str) -> Iterator[JournaledBox]:
    with journaled_box(paths, url) as found:
        capture_on_hub(found.keeper, paths, may_mend=True)
        yield found


def wait_until(reached: Callable[[], bool]) -> bool:
    """Whether *reached* came true within a minute."""
    until_then = time.monotonic() + 60
    while not reached():
        if time.monotonic() > until_then:
            return False
        time.sleep(0.02)
    return True


def database_of(url: str) -> str:
    """Return the database's name in *url*."""
    return url.rpartition("/")[2].partition("?")[0]


def run(*statements: Any) -> Callable[[Session], None]:
    """Return work that executes *statements*."""

    def work(session: Session) -> None:
        for statement in statements:
            session.execute(text(statement) if isinstance(statement, str) else statement)

    return work


def replayed(box: JournaledBox) -> dict[tuple[str, Any], tuple[Any, ...]]:
    """What empty tables hold after the journal's changes, each of which has to fit."""
    rows: dict[tuple[str, Any], tuple[Any, ...]] = {}
    for entry in box.kept():
        for change in entry.changes:
            key = (change.layout.table, change.key)
            before = rows.pop(key, None)
            if change.op == "insert" and before is not None:
                # A fact that was there already: written ahead, and stored once.
                assert change.layout.kind == "facts", change
                rows[key] = before
                continue
            if before != change.old:
                raise AssertionError(f"{change!r} does not fit to {before}")
            if change.new is not None:
                rows[key] = change.new
    return rows


def stored(box: JournaledBox, paths: Paths) -> dict[tuple[str, Any], tuple[Any, ...]]:
    """What the hub's tables hold, as SQLite would."""
    found: dict[tuple[str, Any], tuple[Any, ...]] = {}
    for layout in forwarded_layouts(read_document(paths.tables)):
        columns = [stored_column(column) for column in layout.columns]
        names = ", ".join(one.select for one in columns)
        with box.database.read() as session:
            rows = session.connection().exec_driver_sql(f"SELECT {names} FROM {layout.table}")
            for row in rows:
                values = tuple(
                    None if value is None else one.read(str(value) if one.name == "id" else value)
                    for one, value in zip(columns, row, strict=True)
                )
                key = tuple(values[position] for position in layout.key_positions)
                found[layout.table, key] = values
    return found


def test_each_way_of_writing_is_in_the_journal(box: JournaledBox, paths: Paths) -> None:
    append(box.database, [reading(), reading(device="press-2")], stamp=MORNING)
    box.database.write(run(insert(DEVICES).values(device("lathe"))))
    box.database.write(run(update(DEVICES).values(description="all")))
    box.database.write(run("UPDATE devices SET labels = '{\"a\": 1}' WHERE name = 'lathe'"))
    box.database.write(run(delete(DEVICES).where(DEVICES.c.name == "press-2")))
    box.database.write(run("DELETE FROM readings WHERE device = 'press-2'"))
    assert replayed(box) == stored(box, paths)


def test_a_build_that_keeps_nothing_of_it_is_found_out(box: JournaledBox, paths: Paths) -> None:
    with weakened("forgotten-capture"):
        box.database.write(run(insert(DEVICES).values(device("lathe"))))
    assert replayed(box) != stored(box, paths)


def test_appended_facts_are_written_once(box: JournaledBox, paths: Paths) -> None:
    """In a flight they are known; by the ordinary way they are known, and captured too."""
    first, second = reading(), reading(value=7.0)
    append(box.database, [first], stamp=MORNING)
    append(box.database, [first, second], stamp=MORNING + timedelta(hours=1))
    keys = box.kept_keys()
    assert sorted(set(keys)) == sorted([str(first["id"]), str(second["id"])])
    assert keys.count(str(second["id"])) == 1
    assert replayed(box) == stored(box, paths)


def test_a_mixture_of_threads_replays_to_what_is_stored(box: JournaledBox, paths: Paths) -> None:
    failures: list[BaseException] = []

    def write(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for n in range(15):
                name = f"d{chance.randrange(3)}"
                append(box.database, [reading(device=name)], stamp=MORNING)
                name = f"d{chance.randrange(3)}"
                box.database.write(
                    run(
                        update(DEVICES)
                        .where(DEVICES.c.name == name)
                        .values(description=f"{seed}.{n}")
                    )
                )
                if chance.random() < 0.3:
                    box.database.write(run(delete(READINGS).where(READINGS.c.device == name)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(120)
    assert failures == []
    assert replayed(box) == stored(box, paths)


def test_what_cannot_be_kept_is_not_acknowledged_and_then_not_committed(
    box: JournaledBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.database.write(run(insert(DEVICES).values(device("a"))))
    original = group_writer.GroupWriter.write

    def full(self: Any, write: Any) -> None:
        raise DatabaseFull("the disk has no room for the journal; nothing was written")

    monkeypatch.setattr(group_writer.GroupWriter, "write", full)
    with pytest.raises(DatabaseFull, match="has stored the write, which is not acknowledged"):
        box.database.write(run(insert(DEVICES).values(device("b"))))
    for _ in range(3):
        with pytest.raises(DatabaseFull, match="nothing was written"):
            box.database.write(run(insert(DEVICES).values(device(f"c{uuid.uuid4()}"))))
    with box.database.read() as session:
        assert session.execute(text("SELECT count(*) FROM devices")).scalar_one() == 2
    monkeypatch.setattr(group_writer.GroupWriter, "write", original)
    monkeypatch.setattr(keeping, "PAUSE", 0.0)
    box.database.write(run(insert(DEVICES).values(device("d"))))


def test_capture_costs_no_round_trip(paths: Paths, postgres: PostgresServer, url: str) -> None:
    def work(box: JournaledBox) -> None:
        box.database.write(run(insert(DEVICES).values(device(str(uuid.uuid4())))))
        append(box.database, [reading()], stamp=MORNING)

    found = {}
    for captured in (False, True):
        with (
            CountingRelay(postgres.port, delay=0.0) as relay,
            journaled_box(paths, relay.reroute(url)) as box,
        ):
            if captured:
                capture_on_hub(box.keeper, paths, may_mend=True)
            for _ in range(3):
                work(box)
            before = sum(relay.round_trips().values())
            for _ in range(5):
                work(box)
            found[captured] = sum(relay.round_trips().values()) - before
    assert found[True] == found[False]


def test_a_trigger_that_is_dropped_costs_refusals_and_no_row(
    box: JournaledBox, paths: Paths, postgres: PostgresServer, url: str
) -> None:
    """The watch of the service compares every few seconds, and at once when a COMMIT is refused."""
    wanted = threading.Event()
    box.keeper.suspect = wanted.set
    acknowledged, refused = [], 0
    for n in range(40):
        if n in (10, 25):
            postgres.execute("DROP TRIGGER edgepaas_capture_insert ON devices", database_of(url))
        name = f"d{n}"
        try:
            box.database.write(run(insert(DEVICES).values(device(name))))
            acknowledged.append(name)
        except DatabaseError:
            refused += 1
            assert wanted.is_set()
            box.look()
    assert refused == 2 and len(acknowledged) == 38
    kept = [row[1] for row in replayed(box).values()]
    assert sorted(kept) == sorted(acknowledged)
    assert replayed(box) == stored(box, paths)


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_nothing_is_doubled_and_nothing_taken_for_lost(
    paths: Paths, url: str, step: str
) -> None:
    identity = str(uuid.uuid4())
    process = subprocess.run(
        [sys.executable, "-m", "tests.support.captured_process", url, step, identity],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert process.returncode == -signal.SIGKILL, process.stderr
    on_hub, in_journal = STEPS[step]
    with journaled_box(paths, url) as box:
        capture_on_hub(box.keeper, paths, may_mend=True)
        assert wait_until(lambda: (identity in devices(box)) is on_hub)
        assert (identity in box.kept_keys("devices")) is in_journal
        box.look()
        # The client has heard nothing, and repeats: refused as there already, or stored now.
        if on_hub:
            with pytest.raises(IntegrityError):
                box.database.write(add_device(identity))
        else:
            box.database.write(add_device(identity))
        box.look()
        assert devices(box).count(identity) == 1
        assert box.journal.unsettled() == []
        assert box.journal.lacking(box.hub_marks()) == []  # no false "went back"
        assert lost_rows(paths) == 0


def devices(box: JournaledBox) -> list[str]:
    with box.database.read() as session:
        return [str(row) for row in session.scalars(select(DEVICES.c.id))]
