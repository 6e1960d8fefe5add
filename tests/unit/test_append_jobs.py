# SPDX-License-Identifier: Apache-2.0
"""``Database.submit`` on SQLite: facts and other writes in one queue and one commit."""

import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Table, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from edgepaas.database.append import (
    Appended,
    AppendJob,
    AppendOutcome,
    FactsDiffer,
    append_facts,
)
from edgepaas.database.ids import name_id, uuid7
from edgepaas.database.sqlite import group_commit
from edgepaas.database.sqlite.database import EmbeddedDatabase
from edgepaas.database.sqlite.transaction import MOST_IN_SAVEPOINT
from edgepaas.errors import DatabaseBusy, DatabaseError, DatabaseFull, DatabaseUnavailable
from edgepaas.telemetry.models import DEVICES, READINGS, RULE_FEED
from tests.support.databases import adding, open_embedded, reading, values_in

#: Seconds that nothing here needs.
LIMIT = 60.0
NOW = datetime(2024, 5, 1, 6, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[EmbeddedDatabase]:
    """An open database with the telemetry tables."""
    opened = open_embedded(tmp_path / "edgepaas.db", patience=LIMIT)
    yield opened
    opened.close()


def fact(value: float = 1.0, **columns: Any) -> dict[str, Any]:
    return {
        "id": uuid7(),
        "device_id": name_id("devices", "boiler"),
        "device": "boiler",
        "metric": "temperature",
        "value": value,
        "unit": None,
        "recorded_at": NOW,
        "received_at": NOW,
        **columns,
    }


def device(name: str = "boiler") -> dict[str, Any]:
    return {
        "id": name_id("devices", name),
        "name": name,
        "description": None,
        "labels": {},
        "created_at": NOW,
        "updated_at": NOW,
    }


class Outcomes:
    """What each job ended with, in the order of the answers."""

    def __init__(self) -> None:
        self.by_name: dict[str, AppendOutcome] = {}
        self._changed = threading.Condition()

    def of(self, name: str) -> Callable[[AppendOutcome], None]:
        def done(outcome: AppendOutcome) -> None:
            with self._changed:
                assert name not in self.by_name, "answered twice"
                self.by_name[name] = outcome
                self._changed.notify_all()

        return done

    def wait(self, number: int) -> dict[str, AppendOutcome]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.by_name) >= number, LIMIT)
            return dict(self.by_name)


#: The value of the reading that holds the writer up, where facts do.
HOLDS = -1000.0


class Held:
    """Holds the writer, so that what is handed in meanwhile is a part of the same group.

    By a ``Database.write``, or by facts: a group begins in the way of its first job.
    """

    def __init__(self, database: EmbeddedDatabase, *, by_facts: bool = False) -> None:
        self._database = database
        self._by_facts = by_facts
        self._begun, self._go = threading.Event(), threading.Event()
        self._patch = patch.object(group_commit, "GROUP_SECONDS", LIMIT)

    def __enter__(self) -> None:
        self._patch.start()
        self._thread = threading.Thread(target=self._hold)
        self._thread.start()
        assert self._begun.wait(LIMIT)

    def _hold(self) -> None:
        def following(_: Collection[uuid.UUID]) -> dict[Table, list[dict[str, Any]]]:
            self._wait()
            return {}

        if self._by_facts:
            append_facts(
                self._database,
                READINGS,
                [fact(HOLDS)],
                stamp="received_at",
                following=following,
            )
        else:
            self._database.write(lambda _: self._wait())

    def _wait(self) -> None:
        self._begun.set()
        assert self._go.wait(LIMIT)

    def __exit__(self, *_: object) -> None:
        self._go.set()
        self._thread.join(LIMIT)
        self._patch.stop()
        assert not self._thread.is_alive()


BY = pytest.mark.parametrize("by_facts", [False, True], ids=["by-a-write", "by-facts"])


def values(database: EmbeddedDatabase) -> list[float]:
    return [value for value in values_in(database) if value != HOLDS]


def write_in_thread(database: EmbeddedDatabase, work: Callable[[Session], Any]) -> threading.Thread:
    """Hand *work* in, and return once it waits in the queue."""
    waiting = database._writer._queue.qsize()
    thread = threading.Thread(target=database.write, args=(work,))
    thread.start()
    for _ in range(6000):
        if database._writer._queue.qsize() > waiting:
            return thread
        threading.Event().wait(0.01)
    raise AssertionError("the work does not wait in the queue")


@BY
def test_facts_and_other_writes_share_a_commit_and_keep_their_order(
    database: EmbeddedDatabase, by_facts: bool
) -> None:
    seen: list[list[float]] = []

    def look(session: Session) -> None:
        found = session.scalars(select(READINGS.c.value))
        seen.append(sorted(value for value in found if value != HOLDS))

    outcomes = Outcomes()
    before = list(database.group_sizes.counts)
    with Held(database, by_facts=by_facts):
        # More than a service has threads: nobody waits in one of them.
        for number in range(40):
            facts = [fact(float(number))]
            database.submit(AppendJob(READINGS, facts, outcomes.of(f"first {number}")))
        thread = write_in_thread(database, look)
        database.submit(AppendJob(READINGS, [fact(99.0)], outcomes.of("last")))
    found = outcomes.wait(41)
    thread.join(LIMIT)
    assert list(found) == [*(f"first {n}" for n in range(40)), "last"]
    assert set(map(repr, found.values())) == {repr(Appended(1, 0))}
    assert seen[-1] == [float(number) for number in range(40)]
    groups = sum(database.group_sizes.counts) - sum(before)
    assert groups == 1, "held, gathered and committed as one group"


@BY
@pytest.mark.parametrize("facts_first", [True, False])
def test_a_group_that_fails_is_done_again_job_by_job(
    database: EmbeddedDatabase, facts_first: bool, by_facts: bool
) -> None:
    def fail(session: Session) -> None:
        adding(reading(-1.0))(session)
        raise LookupError("the work's own")

    errors: list[BaseException] = []

    def write() -> None:
        try:
            database.write(fail)
        except LookupError as error:
            errors.append(error)

    outcomes = Outcomes()
    with Held(database, by_facts=by_facts):
        if facts_first:
            database.submit(AppendJob(READINGS, [fact(1.0)], outcomes.of("one")))
        thread = threading.Thread(target=write)
        waiting = database._writer._queue.qsize()
        thread.start()
        while database._writer._queue.qsize() == waiting:
            threading.Event().wait(0.01)
        database.submit(AppendJob(READINGS, [fact(2.0), fact(3.0)], outcomes.of("two")))
    found = outcomes.wait(1 + facts_first)
    thread.join(LIMIT)
    assert found["two"] == Appended(2, 0)
    assert values(database) == ([1.0] if facts_first else []) + [2.0, 3.0]
    assert len(errors) == 1


@BY
def test_facts_that_are_refused_leave_their_neighbours_and_nothing_of_themselves(
    database: EmbeddedDatabase, by_facts: bool
) -> None:
    stored = fact(5.0)
    append_facts(database, READINGS, [stored], before={DEVICES: [device()]})
    outcomes = Outcomes()
    groups = sum(database.group_sizes.counts)
    with Held(database, by_facts=by_facts):
        one = {**stored, "value": 6.0}
        database.submit(AppendJob(READINGS, [fact(1.0)], outcomes.of("before")))
        database.submit(AppendJob(READINGS, [one], outcomes.of("one")))
        database.submit(
            AppendJob(
                READINGS,
                [fact(7.0), one, fact(8.0)],
                outcomes.of("several"),
                before={DEVICES: [device("never")]},
            )
        )
        bad = fact(9.0, device="x" * 201)
        database.submit(AppendJob(READINGS, [bad], outcomes.of("value")))
        database.submit(AppendJob(READINGS, [stored, fact(2.0)], outcomes.of("after")))
    found = outcomes.wait(5)
    assert found["before"] == Appended(1, 0)
    assert isinstance(found["one"], FactsDiffer)
    assert found["one"].positions == (0,)
    assert isinstance(found["several"], FactsDiffer)
    assert found["several"].positions == (1,)
    assert isinstance(found["value"], ValueError)
    assert found["after"] == Appended(1, 1)
    assert values(database) == [1.0, 2.0, 5.0]
    with database.read() as session:
        assert list(session.scalars(select(DEVICES.c.name))) == ["boiler"]
    assert sum(database.group_sizes.counts) == groups + 1, "nothing was run again"


@pytest.mark.parametrize("refused", ["differs", "value"])
@BY
def test_many_facts_that_are_refused_are_undone_with_their_group_which_is_run_again(
    database: EmbeddedDatabase, by_facts: bool, refused: str
) -> None:
    """A savepoint would keep each page that they change in memory."""
    stored = fact(5.0)
    append_facts(database, READINGS, [stored], before={DEVICES: [device()]})
    outcomes = Outcomes()
    bad = {**stored, "value": 6.0} if refused == "differs" else fact(9.0, device="x" * 201)
    many = [fact(7.0) for _ in range(MOST_IN_SAVEPOINT)]
    with Held(database, by_facts=by_facts):
        database.submit(AppendJob(READINGS, [fact(1.0)], outcomes.of("before")))
        database.submit(
            AppendJob(
                READINGS,
                [*many, bad],
                outcomes.of("many"),
                before={DEVICES: [device("never")]},
            )
        )
        database.submit(AppendJob(READINGS, [stored, fact(2.0)], outcomes.of("after")))
    found = outcomes.wait(3)
    assert found["before"] == Appended(1, 0)
    assert isinstance(found["many"], FactsDiffer if refused == "differs" else ValueError)
    assert found["after"] == Appended(1, 1)
    assert values(database) == [1.0, 2.0, 5.0]
    with database.read() as session:
        assert list(session.scalars(select(DEVICES.c.name))) == ["boiler"]


def test_what_the_table_refuses_is_raised_as_by_any_write(database: EmbeddedDatabase) -> None:
    outcomes = Outcomes()
    with Held(database):
        database.submit(AppendJob(READINGS, [fact(1.0)], outcomes.of("good")))
        database.submit(AppendJob(READINGS, [fact(2.0, metric=None)], outcomes.of("bad")))
    found = outcomes.wait(2)
    assert isinstance(found["bad"], IntegrityError)
    assert found["good"] == Appended(1, 0)
    assert values(database) == [1.0]


def test_rows_that_follow_are_those_of_new_facts_alone(database: EmbeddedDatabase) -> None:
    known = fact(1.0)
    append_facts(database, READINGS, [known])
    given: list[set[uuid.UUID]] = []

    def following(new: Collection[uuid.UUID]) -> Mapping[Table, Sequence[Mapping[str, Any]]]:
        given.append(set(new))
        return {RULE_FEED: [{"batch": uuid7(), "node": "here", "readings": str(len(new))}]}

    later = NOW + timedelta(seconds=1)
    fresh = fact(2.0, received_at=later)
    rows = [{**known, "received_at": later}, fresh]
    stored = append_facts(database, READINGS, rows, stamp="received_at", following=following)
    assert stored == Appended(1, 1)
    assert given == [{fresh["id"]}]
    again = append_facts(database, READINGS, rows, stamp="received_at", following=following)
    assert again == Appended(0, 2)
    assert len(given) == 1, "nothing new, so nothing follows"


@BY
def test_a_device_that_a_neighbour_deletes_is_made_again(
    database: EmbeddedDatabase, by_facts: bool
) -> None:
    """What a transaction has seen counts only until another kind of work runs in it."""
    append_facts(database, READINGS, [fact(0.0)], before={DEVICES: [device()]})
    outcomes = Outcomes()
    before = {DEVICES: [device()]}
    with Held(database, by_facts=by_facts):
        database.submit(AppendJob(READINGS, [fact(1.0)], outcomes.of("one"), before=before))
        thread = write_in_thread(database, lambda session: session.execute(DEVICES.delete()))
        database.submit(AppendJob(READINGS, [fact(2.0)], outcomes.of("two"), before=before))
    outcomes.wait(2)
    thread.join(LIMIT)
    with database.read() as session:
        assert list(session.scalars(select(DEVICES.c.name))) == ["boiler"]


def test_a_device_of_refused_facts_is_not_taken_for_present(database: EmbeddedDatabase) -> None:
    stored = fact(5.0)
    append_facts(database, READINGS, [stored])
    outcomes = Outcomes()
    before = {DEVICES: [device("new")]}
    with Held(database):
        differing = [fact(1.0), {**stored, "value": 6.0}]
        database.submit(AppendJob(READINGS, differing, outcomes.of("bad"), before=before))
        database.submit(AppendJob(READINGS, [fact(2.0)], outcomes.of("good"), before=before))
    found = outcomes.wait(2)
    assert isinstance(found["bad"], FactsDiffer)
    with database.read() as session:
        assert list(session.scalars(select(DEVICES.c.name))) == ["new"]


def test_the_queue_is_bounded(database: EmbeddedDatabase) -> None:
    """Ten thousand at once: those beyond the bound are refused at once, the others stored."""
    outcomes = Outcomes()
    with Held(database):
        for number in range(10_000):
            database.submit(AppendJob(READINGS, [fact(float(number))], outcomes.of(str(number))))
        refused = dict(outcomes.by_name)
    found = outcomes.wait(10_000)
    assert 0 < len(refused) <= 10_000 - group_commit.QUEUE_LENGTH
    assert {type(outcome) for outcome in refused.values()} == {DatabaseBusy}
    stored = [float(name) for name, outcome in found.items() if isinstance(outcome, Appended)]
    assert len(stored) + len(refused) == 10_000
    assert values(database) == sorted(stored)


def test_a_writer_that_is_held_up_is_not_waited_for_without_end(
    database: EmbeddedDatabase,
) -> None:
    database.patience = 0.05
    with Held(database), pytest.raises(DatabaseBusy, match="nothing was written"):
        append_facts(database, READINGS, [fact(1.0)])
    database.patience = LIMIT
    append_facts(database, READINGS, [fact(2.0)])
    assert values(database) == [2.0], "what was given up is not written later"


def test_a_job_that_runs_cannot_be_given_up_as_not_begun() -> None:
    job = AppendJob(READINGS, [fact()], lambda _: None)
    assert job.claim()
    assert isinstance(job.give_up(1.0), DatabaseUnavailable)


def test_refused_writes_are_refused_facts(database: EmbeddedDatabase) -> None:
    database.refuse_writes("the budget is used up")
    with pytest.raises(DatabaseFull, match="budget"):
        append_facts(database, READINGS, [fact()])
    database.refuse_writes("")
    append_facts(database, READINGS, [fact()])


def test_a_closed_database_answers_every_job(tmp_path: Path) -> None:
    database = open_embedded(tmp_path / "edgepaas.db", patience=LIMIT)
    outcomes = Outcomes()
    for number in range(20):
        database.submit(AppendJob(READINGS, [fact(float(number))], outcomes.of(str(number))))
    database.close()
    database.submit(AppendJob(READINGS, [fact()], outcomes.of("late")))
    found = outcomes.wait(21)
    assert isinstance(found["late"], DatabaseUnavailable)
    assert [found[str(number)] for number in range(20)] == [Appended(1, 0)] * 20


def test_a_caller_whose_answer_fails_ends_nothing(database: EmbeddedDatabase) -> None:
    outcomes = Outcomes()

    def broken(_: AppendOutcome) -> None:
        raise RuntimeError("the caller's own")

    with Held(database):
        database.submit(AppendJob(READINGS, [fact(1.0)], broken))
        database.submit(AppendJob(READINGS, [fact(2.0)], outcomes.of("next")))
    assert outcomes.wait(1) == {"next": Appended(1, 0)}
    assert values(database) == [1.0, 2.0]


def test_the_outcome_is_known_only_when_it_is_durable(
    database: EmbeddedDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that fails is no success, and no half of a group is stored."""
    lost = DatabaseUnavailable("the files have lost their names")
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 2:  # after the commit, before the answer
            raise lost

    monkeypatch.setattr(database._writer, "_check", check)
    with pytest.raises(DatabaseError) as raised:
        append_facts(database, READINGS, [fact(1.0)])
    assert raised.value is lost


TEXTS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=50
)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(9990, 1, 1), timezones=ZONES)


ROWS = st.lists(
    st.builds(
        fact,
        st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**6), 10**6),
        id=st.builds(uuid7),
        device=TEXTS,
        metric=TEXTS,
        unit=st.none() | TEXTS,
        recorded_at=MOMENTS,
    ),
    min_size=1,
    max_size=5,
)


def test_the_bare_driver_stores_the_very_values_of_the_column_types(tmp_path: Path) -> None:
    bare, core = open_embedded(tmp_path / "bare.db"), open_embedded(tmp_path / "core.db")

    @given(rows=ROWS)
    @settings(max_examples=100, deadline=None)
    def same(rows: list[dict[str, Any]]) -> None:
        assert append_facts(bare, READINGS, rows) == Appended(len(rows), 0)
        core.write(lambda session: session.execute(insert(READINGS), rows))
        stored = [
            raw_values(database, [str(row["id"]) for row in rows]) for database in (bare, core)
        ]
        assert len(stored[0]) == len(rows)
        assert stored[0] == stored[1]
        assert append_facts(bare, READINGS, rows) == Appended(0, len(rows))

    try:
        same()
    finally:
        bare.close()
        core.close()


def raw_values(database: EmbeddedDatabase, ids: list[str]) -> list[Any]:
    columns = ", ".join(f"quote({column.name})" for column in READINGS.c)
    wanted = ", ".join(f"'{identity}'" for identity in ids)
    statement = f"SELECT {columns} FROM readings WHERE id IN ({wanted}) ORDER BY id"
    with database.read() as session:
        return list(session.connection().exec_driver_sql(statement).fetchall())


def test_lists_of_any_length_are_stored_by_few_statements(database: EmbeddedDatabase) -> None:
    """Each is kept compiled, and a long one takes half a megabyte."""
    assert append_facts(database, READINGS, [fact()]) == Appended(1, 0)
    writer = database._writer._connection
    assert writer is not None
    lengths: set[int] = set()

    def note(statement: str) -> None:
        if statement.startswith("INSERT INTO readings"):
            lengths.add(statement.count("("))

    writer.driver.set_trace_callback(note)
    for number in (*range(1, 130), *range(130, 1130, 37)):
        rows = [fact(float(n)) for n in range(number)]
        assert append_facts(database, READINGS, rows) == Appended(number, 0)
    assert 10 < len(lengths) < 75
