# SPDX-License-Identifier: Apache-2.0
"""Nothing that the box wrote to PostgreSQL is missing in its journal, whatever is killed."""

import errno
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from edgepaas.app.facts import Appended, FactsDiffer
from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseFull
from edgepaas.files.paths import Paths
from edgepaas.telemetry.models import READINGS
from tests.support.journaled_box import (
    IN_DOUBT,
    MORNING,
    STEPS,
    JournaledBox,
    append,
    journaled_box,
    prepare,
    reading,
)
from tests.support.postgres_server import PostgresServer
from tests.support.relay import Relay
from tests.support.weaken import weakened

LIMIT = 60.0
LATER = MORNING + timedelta(seconds=1)


@pytest.fixture
def url(paths: Paths, postgres_url: str) -> str:
    """A database at head."""
    prepare(paths, postgres_url)
    return postgres_url


@pytest.fixture
def box(paths: Paths, url: str) -> Iterator[JournaledBox]:
    with journaled_box(paths, url) as found:
        yield found


def wait_until(reached: Callable[[], bool]) -> bool:
    """Whether *reached* came true within a minute."""
    until = time.monotonic() + LIMIT
    while not reached():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def stored(box: JournaledBox, table: str = "readings") -> list[str]:
    """The ids that the hub has."""
    with box.database.read() as session:
        rows = session.connection().exec_driver_sql(f"SELECT id FROM {table} ORDER BY id")
        return [str(row[0]) for row in rows]


def ids(rows: Sequence[Any]) -> list[str]:
    return [str(row["id"]) for row in rows]


# -- what stands in it --


def test_an_appended_fact_is_in_the_journal_as_sqlite_would_hold_it(box: JournaledBox) -> None:
    odd = reading(value=-0.0, unit="é", device="Presse ü", metric="t\n")
    append(box.database, [odd], stamp=MORNING + timedelta(microseconds=7))
    (entry,) = box.kept()
    made, fact = sorted(entry.changes, key=lambda change: change.layout.table)
    assert fact.op == made.op == "insert"
    assert repr(fact.new) == repr((
        str(odd["id"]), str(odd["device_id"]), "Presse ü", "t\n", -0.0, "é",
        "2024-05-01T06:00:00.000000Z", "2024-05-01T06:00:00.000007Z",
        None, None,
    ))  # fmt: skip
    assert made.new is not None
    assert dict(zip(made.layout.names, made.new, strict=True)) == {
        "id": str(odd["device_id"]), "name": "Presse ü", "description": None, "labels": "{}",
        "created_at": "2024-05-01T06:00:00.000000Z", "updated_at": "2024-05-01T06:00:00.000000Z",
    }  # fmt: skip


def test_a_device_is_written_by_who_made_it(box: JournaledBox, paths: Paths, url: str) -> None:
    """And again by who makes it anew after it was deleted."""
    first, second, third = reading(), reading(), reading()
    append(box.database, [first], stamp=MORNING)
    append(box.database, [second], stamp=MORNING)
    assert box.kept_keys("devices") == [str(first["device_id"])]
    with journaled_box(paths, url) as other:  # which does not know that it is there
        append(other.database, [third], stamp=MORNING)
    assert box.kept_keys("devices") == [str(first["device_id"])]
    box.database.write(lambda session: session.execute(text("DELETE FROM devices")))
    append(box.database, [reading()], stamp=MORNING)
    assert box.kept_keys("devices") == [str(first["device_id"])] * 2
    assert len(stored(box, "devices")) == 1


def test_a_repeated_fact_is_in_the_journal_again(box: JournaledBox) -> None:
    """The process that stored it first may have been killed before it had written it."""
    row = reading()
    box.database.write(lambda session: session.execute(READINGS.insert(), [row]))
    assert box.kept_keys() == []
    assert append(box.database, [row], stamp=MORNING) == Appended(0, 1)
    assert box.kept_keys() == ids([row])


def test_a_fact_that_differs_is_not_in_the_journal(box: JournaledBox) -> None:
    row, other = reading(), reading()
    append(box.database, [row], stamp=MORNING)
    with pytest.raises(FactsDiffer):
        append(box.database, [{**row, "value": 1.0}, other], stamp=MORNING)
    assert box.kept_keys() == ids([row])


def test_a_batch_of_which_a_part_is_there_is_in_the_journal_whole(box: JournaledBox) -> None:
    there, rest = reading(), [reading(), reading()]
    box.database.write(lambda session: session.execute(READINGS.insert(), [there]))
    assert append(box.database, [rest[0], there, rest[1]], stamp=MORNING) == Appended(2, 1)
    assert set(box.kept_keys()) == set(ids([there, *rest]))
    assert len(box.kept_keys()) == 3


def test_a_row_that_is_refused_leaves_nothing_in_the_journal(box: JournaledBox) -> None:
    with pytest.raises(Exception, match="finite"):
        append(box.database, [reading(value=float("inf"))], stamp=MORNING)
    assert box.journal.unsettled() == [] and box.kept() == []
    append(box.database, [reading()], stamp=MORNING)
    assert len(box.kept_keys()) == 1


def test_marks_of_entries_are_those_of_the_hub(box: JournaledBox) -> None:
    for _ in range(5):
        append(box.database, [reading()], stamp=MORNING)
    box.database.write(lambda session: session.execute(text("UPDATE devices SET description = ''")))
    append(box.database, [reading()], stamp=MORNING)
    hub = box.hub_marks()
    assert box.journal.lacking(hub) == []
    ((stream, mark),) = hub.items()
    assert [entry.mark for entry in box.journal.lacking({stream: mark - 3})] == [5, 7]


def test_many_threads_at_once_are_all_in_the_journal(box: JournaledBox) -> None:
    rows = [reading(device=f"press-{number % 3}") for number in range(120)]
    threads = [
        threading.Thread(
            target=lambda some: [append(box.database, [one], stamp=MORNING) for one in some],
            args=(rows[start::12],),
        )
        for start in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(box.kept_keys()) == sorted(ids(rows)) == sorted(stored(box))
    assert len(box.kept_keys("devices")) == 3
    assert box.journal.lacking(box.hub_marks()) == []


# -- killed --


def killed_at(paths: Paths, url: str, step: str, rows: Sequence[str], weakness: str = "") -> None:
    """Run a process that appends *rows*, and is killed at *step*."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.support.journaled_box", url, step, weakness, *rows],
        capture_output=True, text=True, timeout=2 * LIMIT, check=False,
    )  # fmt: skip
    assert process.returncode == -signal.SIGKILL, process.stderr


def unjournaled(box: JournaledBox, rows: Sequence[str]) -> set[str]:
    """Those of *rows* that the hub has and the journal does not."""
    in_flight = {
        str(change.key[0]) for entry in box.journal.unsettled() for change in entry.changes
    }
    return (set(rows) & set(stored(box))) - set(box.kept_keys()) - in_flight


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_nothing_is_doubled_or_missing(
    paths: Paths, url: str, step: str
) -> None:
    rows = [str(uuid.uuid4()) for _ in range(3)]
    killed_at(paths, url, step, rows)
    with journaled_box(paths, url) as box:
        if STEPS[step]:
            assert wait_until(lambda: set(rows) <= set(stored(box)))
        assert unjournaled(box, rows) == set()
        box.look()
        assert box.journal.unsettled() == []
        assert (set(rows) <= set(box.kept_keys())) == STEPS[step]
        doubtful = [box.journal.with_changes(one) for one in box.journal.doubtful(box.hub_marks())]
        in_doubt = {str(change.key[0]) for one in doubtful for change in one.changes}
        assert (set(rows) <= in_doubt) == (step in IN_DOUBT)
        # The client has heard nothing, and repeats.
        again = append(box.database, [reading(uuid.UUID(one)) for one in rows], stamp=MORNING)
        assert again.accepted + again.duplicates == 3
        assert stored(box).count(rows[0]) == 1 and set(rows) <= set(stored(box))
        assert set(rows) <= set(box.kept_keys())
        box.look()
        assert box.journal.lacking(box.hub_marks()) == []  # no false "went back"


def test_a_build_that_writes_the_entry_after_the_commit_is_found_out(
    paths: Paths, url: str
) -> None:
    rows = [str(uuid.uuid4())]
    killed_at(paths, url, "-confirm", rows, "journal-behind")
    with journaled_box(paths, url) as box:
        assert wait_until(lambda: set(rows) <= set(stored(box)))
        assert unjournaled(box, rows) == set(rows)


@pytest.mark.parametrize("lost", [1, 2])
def test_an_entry_of_a_transaction_that_the_hub_lost_is_kept(
    paths: Paths, url: str, postgres: PostgresServer, lost: int
) -> None:
    """Box and server die together: the client was answered, and that is not written yet.

    The hub lost the last transaction alone, or more of its stream, which other marks show.
    """
    with journaled_box(paths, url) as box:
        append(box.database, [reading()], stamp=MORNING)
    rows = [str(uuid.uuid4())]
    killed_at(paths, url, "+answer", rows)
    database = url.rpartition("/")[2]
    postgres.execute(f"DELETE FROM readings WHERE id = '{rows[0]}'", database)
    postgres.execute(
        f"UPDATE sync_connections SET mark = mark - {lost} WHERE mark >= {lost}", database
    )
    with journaled_box(paths, url) as box:
        box.look()
        lacking = [box.journal.with_changes(one) for one in box.journal.doubtful(box.hub_marks())]
        assert rows[0] in {str(change.key[0]) for one in lacking for change in one.changes}


def test_what_was_acknowledged_is_synced(paths: Paths, url: str) -> None:
    assert acknowledged_unsynced(paths, url) == 0


def test_a_build_that_acknowledges_what_is_not_synced_is_found_out(paths: Paths, url: str) -> None:
    with weakened("journal-unsynced"):
        assert acknowledged_unsynced(paths, url) > 0


def acknowledged_unsynced(paths: Paths, url: str) -> int:
    """How many answers came while the journal had commits that were not synced.

    Counted where the system is asked for the sync, at each call's end.
    """
    found = 0
    with journaled_box(paths, url) as box:
        writer = box.journal._writer
        synced, sync = [0], writer._file.sync

        def noted() -> None:
            sync()
            synced[0] = writer._written

        writer._file.sync = noted  # type: ignore[method-assign]
        for _ in range(5):
            append(box.database, [reading()], stamp=MORNING)
            found += synced[0] < writer._written
    return found


def test_a_journal_that_cannot_be_synced_acknowledges_nothing(box: JournaledBox) -> None:
    """And goes on with the file brought up to date, not with one that seems to be synced."""
    append(box.database, [reading()], stamp=MORNING)
    writer = box.journal._writer

    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error")

    writer._file.sync = fail  # type: ignore[method-assign]
    row = reading()
    with pytest.raises(DatabaseBusy, match="is not acknowledged"):
        append(box.database, [row], stamp=MORNING)
    del writer._file.sync
    checkpoints: list[str] = []
    original = writer._file.reopen

    def noted() -> None:
        checkpoints.append("again")
        original()

    writer._file.reopen = noted  # type: ignore[method-assign]
    assert append(box.database, [row], stamp=LATER) == Appended(0, 1)
    assert checkpoints == ["again"]
    assert str(row["id"]) in box.kept_keys()


def test_a_journal_that_was_deleted_is_made_anew_and_acknowledges_nothing_into_the_old_one(
    box: JournaledBox,
) -> None:
    append(box.database, [reading()], stamp=MORNING)
    for path in box.journal.path.parent.glob(f"{box.journal.path.name}*"):
        if not path.name.endswith(".lock"):
            path.unlink()
    row = reading()
    with pytest.raises(DatabaseBusy, match="deleted while it was open"):
        append(box.database, [row], stamp=MORNING)
    assert append(box.database, [row], stamp=LATER) == Appended(0, 1)
    assert box.kept_keys() == ids([row])


# -- lost answers, and a disk without room --


def test_entries_of_lost_answers_are_settled_by_the_marks(
    paths: Paths, url: str, postgres: PostgresServer
) -> None:
    with Relay(postgres.port, seed=3) as relay, journaled_box(paths, relay.reroute(url)) as box:
        relay.commit_cut = 0.3
        acknowledged = []
        for _ in range(40):
            row = reading()
            try:
                append(box.database, [row], stamp=MORNING)
            except DatabaseError:
                continue
            acknowledged.append(row)
        relay.calm()
        assert relay.cuts > 3
        assert set(ids(acknowledged)) <= set(box.kept_keys())
        box.look()
        assert box.journal.unsettled() == []
        assert set(stored(box)) == set(box.kept_keys())
        assert box.journal.lacking(box.hub_marks()) == []


def test_what_cannot_be_written_is_not_sent(box: JournaledBox) -> None:
    append(box.database, [reading()], stamp=MORNING)
    before = stored(box)
    box.journal._writer._file.connection.execute("PRAGMA max_page_count=1")
    row = reading(metric="x" * 200)
    rows = [reading(metric="x" * 200) for _ in range(500)]
    with pytest.raises(DatabaseFull, match="no room for the journal"):
        append(box.database, rows, stamp=MORNING)
    assert stored(box) == before and box.journal.unsettled() == []
    append(box.database, [row], stamp=MORNING)  # there is room again
    assert set(stored(box)) == {*before, *ids([row])} == set(box.kept_keys())


def test_joined_streams_are_known_by_the_sum(
    paths: Paths, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepaas.marks.keeper.JOIN_EVERY", 0.0)
    for _ in range(3):
        with journaled_box(paths, url) as box:
            append(box.database, [reading()], stamp=MORNING)
    with journaled_box(paths, url) as box:
        append(box.database, [reading()], stamp=MORNING)
        box.look()
        box.look()
        hub = box.hub_marks()
        assert len(hub) == 2  # the sum and the open stream
        assert box.journal.lacking(hub) == []
        (joined,) = (name for name, mark in hub.items() if mark == 3)
        lost = box.journal.lacking({**hub, joined: 0})  # as before they were joined
        assert [one.mark for one in lost] == [1, 1, 1]
        alone = {one.stream_id: 1 for one in lost[:2]}  # restored with rows of their own
        assert box.journal.lacking({**hub, **alone, joined: 0}) == lost[2:]
